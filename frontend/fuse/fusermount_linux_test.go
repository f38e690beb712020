package fuse

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHelper mounts and unmounts by fusermount, which serves root too.
func TestHelper(t *testing.T) {
	if _, err := findHelper(); err != nil {
		t.Skip("needs a helper: ", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: to know that mounting is allowed here")
	}
	st := State{Version: stateVersion, Dir: t.TempDir()}
	fd, helper, err := mountHelper(st)
	if err != nil {
		t.Fatal(err)
	}
	st.Helper = helper
	o, _ := Options{}.check()
	s, err := newSession(fd, st, o)
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	defer func() { _ = unmount(st.Dir, "", true) }()
	if err := s.awaitInit(); err != nil {
		t.Fatal(err)
	}
	want := content(4096)
	if err := s.AddDisk(Disk{"disk", "id", memory{bytes.NewReader(want)}}); err != nil {
		t.Fatal(err)
	}
	file, err := unix.Open(filepath.Join(st.Dir, "disk"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := unix.Pread(file, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read: %v, or wrong bytes", err)
	}
	if err := s.Unmount(); !errors.Is(err, ErrBusy) {
		t.Errorf("unmount under an open file: %v, want ErrBusy", err)
	}
	if err := unix.Close(file); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(); err != nil {
		t.Fatal(err)
	}
}

func TestHelperSaysWhy(t *testing.T) {
	if _, err := findHelper(); err != nil {
		t.Skip("needs a helper: ", err)
	}
	if _, _, err := mountHelper(State{Dir: "/nonexistent/dir"}); err == nil || !bytes.Contains([]byte(err.Error()), []byte("nonexistent")) {
		t.Errorf("mount at nothing: %v, want the helper's words", err)
	}
	if _, _, err := mountHelper(State{Dir: "/", AllowOther: true}); err == nil {
		t.Error("mounted for every user without root")
	}
}
