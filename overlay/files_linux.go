package overlay

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// BootID is the kernel's: page cache is lost only with the kernel.
func (osFS) BootID() (id [16]byte, ok bool) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, false
	}
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	return id, err == nil && copy(id[:], b) == len(id)
}

// retry repeats a system call that a signal interrupted.
func (f osFile) retry(op string, call func(fd int) error) error {
	for {
		err := call(int(f.Fd()))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return &os.PathError{Op: op, Path: f.Name(), Err: err}
		}
	}
}

func (f osFile) Sync() error { return f.retry("fdatasync", unix.Fdatasync) }

func (f osFile) Punch(off, length int64) error {
	return f.retry("punch hole", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	})
}

func (f osFile) NextData(off int64) (from, to int64, err error) {
	from, err = f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		to, err = f.Seek(from, unix.SEEK_HOLE)
	}
	return from, to, err
}

func (f osFile) Lock() error {
	err := f.retry("lock", func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w", f.Name(), ErrInUse)
	}
	return err
}
