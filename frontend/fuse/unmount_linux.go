package fuse

import (
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"

	"github.com/rivuletfs/rivulet/internal/mountpoint"
)

// Unmount unmounts a session that another process serves, or served. If the
// mount is in use it returns ErrBusy, and ErrNotMounted if what is mounted at
// dir, if anything, is not a session.
func Unmount(dir string) error { return unmountOther(dir, false) }

// UnmountLazily is Unmount for a session that nobody serves any more: it goes
// though it is in use, and its users get errors.
func UnmountLazily(dir string) error { return unmountOther(dir, true) }

func unmountOther(dir string, lazy bool) error {
	dir, err := mountpoint.Resolve(dir)
	if err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	there, err := mountpoint.Table(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if len(there) == 0 || there[len(there)-1].FSType != FSType { // the topmost is the last
		return fmt.Errorf("unmount %s: %w", dir, ErrNotMounted)
	}
	helper := ""
	if os.Geteuid() != 0 {
		if helper, err = findHelper(); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	return unmount(dir, helper, lazy)
}
