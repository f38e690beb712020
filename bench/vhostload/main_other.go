//go:build !linux

// Command vhostload needs Linux.
package main

func main() { panic("vhostload needs Linux") }
