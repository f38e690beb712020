//go:build !linux

// Command fsx needs Linux.
package main

func main() { panic("fsx needs Linux") }
