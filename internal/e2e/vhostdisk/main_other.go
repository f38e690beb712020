//go:build !linux

// Command vhostdisk needs Linux.
package main

func main() { panic("vhostdisk needs Linux") }
