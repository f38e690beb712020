//go:build unix

// Package scratch makes temporary folders that do not outlive their process for long: each
// has a file beside it that is locked while its process lives, and whoever makes the next
// one removes those whose lock nobody holds any more.
package scratch

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	prefix = "rivulet-"
	suffix = ".lock"
	tries  = 5
)

// A Folder is a temporary one of this process. It is for one goroutine.
type Folder struct {
	Path string
	lock *os.File
}

// Make makes a folder in dir, whose name says what it is for; dir "" is the system's for
// temporary files. What others have left in dir that were killed is removed.
func Make(dir, what string) (*Folder, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	sweep(dir)
	for range tries {
		path := filepath.Join(dir, prefix+what+"-"+rand.Text()[:12]) // short, as sockets are put there
		lock, err := os.OpenFile(path+suffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, fmt.Errorf("make a temporary folder: %w", err)
		}
		if !hold(lock) { // somebody took it for one that is left over
			_ = lock.Close()
			continue
		}
		f := &Folder{path, lock}
		if err := os.Mkdir(path, 0o700); err != nil {
			return nil, fmt.Errorf("make a temporary folder: %w", errors.Join(err, f.Remove()))
		}
		return f, nil
	}
	return nil, fmt.Errorf("make a temporary folder in %s: somebody removes its lock", dir)
}

// hold reports whether the file is locked now by this process, and still there.
func hold(lock *os.File) bool {
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	held, err := lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(lock.Name())
	return err == nil && os.SameFile(held, there)
}

// Remove removes the folder and all in it.
func (f *Folder) Remove() error {
	err := RemoveAll(f.Path)
	// The lock goes last: while it is there, somebody else may go on with this.
	if err == nil {
		err = os.Remove(f.lock.Name())
	}
	return errors.Join(err, f.lock.Close())
}

// sweep removes folders whose processes are gone. What cannot be removed, as it is
// another user's, stays.
func sweep(dir string) {
	all, _ := os.ReadDir(dir)
	for _, e := range all {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || !strings.HasPrefix(name, prefix) || !e.Type().IsRegular() {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) // a pipe in its place must not hold us up
		if err != nil {
			continue
		}
		if own(lock) && hold(lock) {
			_ = (&Folder{filepath.Join(dir, name), lock}).Remove()
		} else {
			_ = lock.Close()
		}
	}
}

// own reports whether a file is this user's: in a folder that others write into too, another
// one's lock is no reason to remove anything.
func own(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && int(st.Uid) == os.Geteuid()
}

// RemoveAll removes a folder, also one whose folders do not let it.
func RemoveAll(path string) error {
	err := os.RemoveAll(path)
	if errors.Is(err, fs.ErrPermission) {
		_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(p, 0o700)
			}
			return nil
		})
		err = os.RemoveAll(path)
	}
	return err
}
