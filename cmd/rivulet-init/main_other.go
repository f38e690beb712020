//go:build !linux

// Rivulet-init is the first process of a Linux guest.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "rivulet-init runs in a Linux guest only")
	os.Exit(1)
}
