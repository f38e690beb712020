package fuse

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotMounted says that no session is mounted at a directory.
var ErrNotMounted = errors.New("no disks are shown here")

// Unmount unmounts a session that another process serves, or served. If the
// mount is in use it returns ErrBusy.
func Unmount(dir string) error {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	if err == nil && st.Type != unix.FUSE_SUPER_MAGIC {
		err = ErrNotMounted
	}
	// ENOTCONN is what the mount of a server that has gone answers.
	if err != nil && !errors.Is(err, unix.ENOTCONN) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	helper := ""
	if os.Geteuid() != 0 {
		if helper, err = findHelper(); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	return unmount(dir, helper, false)
}
