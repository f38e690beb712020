//go:build unix

package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// lockName is the inherited descriptor of the state folder's lock.
const lockName = "lock"

// ErrRunning says that another host uses a state folder.
var ErrRunning = errors.New("another agent runs with this state folder")

// openFolder opens, and makes, the state folder at path, for this process alone:
// the lock ends with the last process that has it open, so it passes on in a live
// upgrade without being free in between.
func openFolder(path string, in *keep.Inherited) (*folder, error) {
	if path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	lock, err := openLock(path, in)
	if err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("state folder %s: %w", path, err)
	}
	return &folder{path: path, dir: dir, lock: lock}, nil
}

func openLock(path string, in *keep.Inherited) (*os.File, error) {
	if d, ok := in.Take(lockName); ok {
		return os.NewFile(uintptr(d.File.Take()), "lock"), nil
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrRunning
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return lock, nil
}

// descriptor returns the lock for the next process.
func (f *folder) descriptor() (keep.Descriptor, error) {
	own, err := fdpass.Of(f.lock)
	return keep.Descriptor{Name: lockName, File: own}, err
}

func (f *folder) close() error {
	if f == nil {
		return nil
	}
	return errors.Join(f.dir.Close(), f.lock.Close())
}
