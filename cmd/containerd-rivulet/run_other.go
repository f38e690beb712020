//go:build !linux

package main

import (
	"context"
	"fmt"
	"io"
)

// run says that there is nothing to run.
func run(_ context.Context, _ []string, _, errOut io.Writer) int {
	fmt.Fprintln(errOut, "containerd-rivulet: only Linux has what it needs")
	return 1
}
