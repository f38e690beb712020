package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/internal/runtimedir"
)

// A process that serves one mount holds a lock on a file of its own, which says where that is, until all that
// belongs to the mount is closed: its overlay too, which is so a moment after nothing is mounted any more. The
// lock ends with the process, however that ends.
const (
	mountLockPrefix = "mount-"
	mountLockSuffix = ".lock"
)

// lockMount tells of this process, which serves the mount at dir, until unlock.
func lockMount(dir string) (unlock func(), err error) {
	run, err := runtimedir.Make()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(run, mountLockPrefix+"*"+mountLockSuffix)
	if err != nil {
		return nil, err
	}
	unlock = func() {
		_ = os.Remove(f.Name())
		_ = f.Close()
	}
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err == nil {
		_, err = f.WriteString(dir)
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return unlock, nil
}

// mountLocks opens the files of the processes that serve, or have died serving, the mount at dir.
func mountLocks(dir string) []*os.File {
	run := runtimedir.Path()
	entries, err := os.ReadDir(run)
	if err != nil {
		return nil
	}
	var locks []*os.File
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), mountLockPrefix) || !strings.HasSuffix(e.Name(), mountLockSuffix) {
			continue
		}
		f, err := os.Open(filepath.Join(run, e.Name()))
		if err != nil {
			continue // it has ended meanwhile, or is not ours
		}
		if at, err := io.ReadAll(io.LimitReader(f, 1<<16)); err != nil || string(at) != dir {
			_ = f.Close()
			continue
		}
		locks = append(locks, f)
	}
	return locks
}

// awaitUnlock waits until nobody holds the lock.
func awaitUnlock(ctx context.Context, lock *os.File) error {
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		if err == nil { // it was removed by who held it, but for one that was killed
			if err = os.Remove(lock.Name()); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
