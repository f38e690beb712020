package fuse_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
)

// TestWritten writes a disk through its file, around the page cache and through it, and
// reads it back, also from the image below.
func TestWritten(t *testing.T) {
	needMount(t)
	image := filepath.Join(t.TempDir(), "image")
	want := random(3<<20, 1)
	if err := os.WriteFile(image, want, 0o600); err != nil {
		t.Fatal(err)
	}
	s := mount(t, fuse.Options{Writable: true})
	d, err := openDisk(image, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddDisk(d); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.Dir(), "disk")
	written := random(1<<20, 2)
	for off, flags := range map[int64]int{1000: 0, 1 << 20: unix.O_DIRECT} {
		fd := open(t, file, unix.O_RDWR|flags)
		b := alignedBuffer(len(written))
		copy(b, written)
		if n, err := unix.Pwrite(fd, b, off); n != len(b) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
		copy(want[off:], written)
		if err := unix.Fsync(fd); err != nil {
			t.Error(err)
		}
	}
	fd := open(t, file, unix.O_RDWR)
	if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 2<<20, 8192); err != nil {
		t.Error(err)
	}
	clear(want[2<<20 : 2<<20+8192])
	if err := unix.Ftruncate(fd, 5); err == nil {
		t.Error("the file was made shorter")
	}
	for _, path := range []string{file, image} {
		// Not by os.ReadFile: it would hang in the poller of who serves.
		if got := command(t, "cat", path); !bytes.Equal([]byte(got), want) {
			t.Errorf("%s has other bytes than were written", path)
		}
	}
}

// TestWrittenOverTakeovers has a file system written whose server is killed meanwhile.
func TestWrittenOverTakeovers(t *testing.T) {
	needLoop(t)
	needTool(t, "e2fsck")
	image, source := makeImage(t)
	s := mount(t, fuse.Options{Writable: true})
	d, err := openDisk(image, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddDisk(d); err != nil {
		t.Fatal(err)
	}
	needResend(t, s)
	m := loopMount(t, s, loopmount.Options{Writable: true})
	fd, st := handOver(t, s)
	defer func() { _ = unix.Close(fd) }()
	unmountLate(t, st.Dir)

	order := childOrder{State: st, Image: image, Delay: 2 * time.Millisecond}
	kill := startChild(t, fd, order)
	copies := []string{"one", "two"}
	for _, name := range copies {
		cp := exec.Command("sh", "-c", `cp -r "$1" "$2" && sync -f "$2"`, "sh", source, filepath.Join(m.Dir, name))
		cp.Stderr = t.Output()
		if err := cp.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond) // somewhere in the middle
		kill()
		kill = startChild(t, fd, order)
		if err := waitBounded(t, cp); err != nil {
			t.Fatalf("writing over a takeover: %v", err)
		}
	}
	command(t, "fstrim", m.Dir)
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	kill()
	command(t, "e2fsck", "-fn", image)
	again, err := loopmount.Mount(t.Context(), image, t.TempDir(), loopmount.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := again.Unmount(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for _, name := range copies {
		command(t, "diff", "-r", source, filepath.Join(again.Dir, name))
	}
}
