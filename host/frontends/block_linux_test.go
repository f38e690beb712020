package frontends

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
)

// TestBlock writes to a device, over a release and a loss of its descriptor, and finds it in the disk.
func TestBlock(t *testing.T) {
	flat := ext4Disk(t)
	disk := &flatWriter{b: make([]byte, flat.Size())}
	if _, err := flat.ReadAt(disk.b, 0); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, disk)
	run, dir := t.TempDir(), t.TempDir()
	link := filepath.Join(dir, "device")
	block := func() *Block { return &Block{File: File{Keeper: s.keeper, Logger: s.log}, Runtime: run} }
	// use mounts the device as somebody else would, and writes a file.
	use := func(o host.Offered, name string, during func()) {
		t.Helper()
		at := t.TempDir()
		if to, err := os.Readlink(link); err != nil || to != o.Address() {
			t.Fatalf("the link leads to %q, %v, not %q", to, err, o.Address())
		}
		if err := unix.Mount(link, at, "ext4", 0, ""); err != nil {
			t.Fatal(err)
		}
		if during != nil {
			during()
		}
		err := os.WriteFile(filepath.Join(at, name), content, 0o600)
		if err = errors.Join(err, unix.Unmount(at, 0)); err != nil {
			t.Fatal(err)
		}
		letGo(t, link)
	}
	b := block()
	o := s.must(s.offer(b, link, "", nil))
	use(o, "g", func() {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := o.Detach(ctx, false); !errors.Is(err, host.ErrBusy) {
			t.Errorf("detached while it is mounted: %v", err)
		}
		in := s.release(b)
		b = block()
		again := s.must(s.offer(b, link, "", again(in)))
		if again.Address() != o.Address() {
			t.Errorf("the device is %s, was %s", again.Address(), o.Address())
		}
		o = again
	})
	s.release(b).Close()
	b = block()
	o = s.must(s.offer(b, link, "", again(&keep.Inherited{})))
	use(o, "h", nil)
	device := o.Address()
	s.detach(o)
	if file, err := loopmount.BackingFile(device); err != nil || strings.HasPrefix(file, run) { // somebody else may have it by now
		t.Errorf("%s reads %q, %v", device, file, err)
	}
	s.nothingLeft(run, dir)
	if _, err := os.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the link is left: %v", err)
	}
	o = s.must(s.offer(block(), link, "", nil))
	at := t.TempDir()
	if err := unix.Mount(link, at, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "g", "h"} {
		if got := readPast(t, filepath.Join(at, name)); !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes read, or wrong ones", name, len(got))
		}
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	s.detach(o)
	// By force, while it is mounted: the device goes with the mount.
	o = s.must(s.offer(block(), link, "", nil))
	if err := unix.Mount(link, at, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := o.Detach(ctx, true); err != nil {
		t.Errorf("detached by force: %v", err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) { // whoever has just made a mount namespace has it, too
		file, err := loopmount.BackingFile(o.Address())
		if err == nil && !strings.HasPrefix(file, run) {
			break
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("%s reads %q, %v", o.Address(), file, err)
		}
	}
	if _, err := s.offer(block(), "relative", "", nil); !errors.As(err, new(host.SpecError)) {
		t.Errorf("a relative link: %v", err)
	}
}

// letGo waits until a device is mounted nowhere, and written: who has just made a mount namespace has what was
// mounted, too.
func letGo(t *testing.T, device string) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err == nil {
			_ = unix.Close(fd)
			return
		}
		if !errors.Is(err, unix.EBUSY) || time.Since(begun) > 30*time.Second {
			t.Fatalf("%s: %v", device, err)
		}
	}
}
