//go:build !linux

// Command hello needs Linux.
package main

func main() { panic("hello needs Linux") }
