//go:build !linux || !(amd64 || arm64)

package sandbox

import (
	"context"
	"fmt"
)

// Run runs a program and waits until all of its processes are gone.
func Run(context.Context, Spec) error {
	return fmt.Errorf("%w: it needs Linux on amd64 or arm64", ErrUnavailable)
}
