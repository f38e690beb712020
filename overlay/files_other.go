//go:build !linux

package overlay

import (
	"errors"
	"fmt"
	"io"
	"syscall"
)

// Without holes space is not given back: a discarded block keeps its place, for
// the next write to it.
func (f osFile) Punch(int64, int64) error {
	return fmt.Errorf("punch hole in %s: %w", f.Name(), errors.ErrUnsupported)
}

func (f osFile) NextData(off int64) (from, to int64, err error) {
	size, err := f.Size()
	if err == nil && off >= size {
		err = io.EOF
	}
	return off, size, err
}

// BootID is nowhere to be had, so that a kill is taken for a power cut.
func (osFS) BootID() (id [16]byte, ok bool) { return id, false }

func (f osFile) Lock() error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w", f.Name(), ErrInUse)
	}
	return err
}
