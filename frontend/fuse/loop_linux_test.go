package fuse_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
)

func needLoop(t testing.TB) {
	t.Helper()
	needMount(t)
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices: ", err)
	}
}

// showImage serves a new image; its source tree is returned too.
func showImage(t testing.TB) (s *fuse.Session, image, source string) {
	t.Helper()
	needLoop(t)
	image, source = makeImage(t)
	s = mount(t, fuse.Options{})
	d, err := openDisk(image, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddDisk(d); err != nil {
		t.Fatal(err)
	}
	return s, image, source
}

// loopMount mounts the served disk; it is unmounted at the test's end if the
// test has not done so.
func loopMount(t testing.TB, s *fuse.Session, o loopmount.Options) *loopmount.Mounted {
	t.Helper()
	m, err := loopmount.Mount(t.Context(), filepath.Join(s.Dir(), "disk"), t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", m.Dir).Run() })
	return m
}

// unmounted unmounts s. The kernel may let go of a file a moment after whoever had it open has closed it: a loop
// device that another process was the last to close (it may only have copied our mounts) says that it has no file
// before it closes the file.
func unmounted(t testing.TB, s *fuse.Session) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := s.Unmount()
		if err == nil {
			return
		}
		if !errors.Is(err, fuse.ErrBusy) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestLoopMount(t *testing.T) {
	s, _, source := showImage(t)
	m := loopMount(t, s, loopmount.Options{ReadAhead: 1 << 20})
	m, err := loopmount.Find(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.HolderDir != s.Dir() || m.HolderType != fuse.FSType || m.File != filepath.Join(s.Dir(), "disk") {
		t.Errorf("mounted = %+v, want a file on the %s mount %s", m, fuse.FSType, s.Dir())
	}
	command(t, "diff", "-r", "-x", "lost+found", source, m.Dir)

	if err := s.Unmount(); !errors.Is(err, fuse.ErrBusy) {
		t.Fatalf("unmount under a loop device: %v, want ErrBusy", err)
	}
	command(t, "ls", m.Dir) // still served
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	unmounted(t, s)
}
