// Package mountpointtest has mounts for tests.
package mountpointtest

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Dead returns a directory at which a FUSE session is mounted that has lost its server, so that nobody can look at it. It
// skips the test where that cannot be made.
func Dead(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs FUSE: ", err)
	}
	dir := t.TempDir()
	err = unix.Mount("rivulet", dir, "fuse.rivulet", unix.MS_RDONLY, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	if err == nil {
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, unix.ENOTCONN) {
		t.Fatalf("it has a server still: %v", err)
	}
	return dir
}
