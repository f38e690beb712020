package fuse

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Unmount unmounts a session that another process serves, or served. If the
// mount is in use it returns ErrBusy, and ErrNotMounted if what is mounted at
// dir, if anything, is not a session.
func Unmount(dir string) error { return unmountOther(dir, false) }

// UnmountLazily is Unmount for a session that nobody serves any more: it goes
// though it is in use, and its users get errors.
func UnmountLazily(dir string) error { return unmountOther(dir, true) }

func unmountOther(dir string, lazy bool) error {
	dir, err := mountPoint(dir)
	if err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if !topmost(string(mounts), dir) {
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

// mountPoint returns dir as the mount table has it. It does not look at what is
// mounted there, which may have lost its server.
func mountPoint(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if _, err := os.Readlink(dir); err == nil {
		return filepath.EvalSymlinks(dir)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	return filepath.Join(parent, filepath.Base(dir)), err
}

// topmost reports whether the last mount at dir in a table in the form of
// mountinfo (proc(5)) is one of ours.
func topmost(table, dir string) bool {
	escape := strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`)
	dir = escape.Replace(dir)
	ours := false
	for line := range strings.Lines(table) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && fields[4] == dir {
			kind, _, _ := strings.Cut(after, " ")
			ours = kind == FSType
		}
	}
	return ours
}
