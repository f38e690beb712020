package fuse_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/fuse"
)

type memory struct{ *bytes.Reader }

func (m memory) Size() int64 { return m.Reader.Size() }

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func show(t testing.TB, s *fuse.Session, name string, b []byte) string {
	t.Helper()
	d := fuse.Disk{Name: name, ID: fmt.Sprintf("%x", b[:8]), Device: memory{bytes.NewReader(b)}}
	if err := s.AddDisk(d); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(s.Dir(), name)
}

// open opens a file of our own mount: not with os.Open, see the package comment.
func open(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func TestFiles(t *testing.T) {
	s := mount(t, fuse.Options{})
	a := show(t, s, "a", random(3<<20+512, 1))
	show(t, s, "b b", random(512, 2))

	if got, want := command(t, "ls", "-a", s.Dir()), ".\n..\na\nb b\n"; got != want {
		t.Errorf("ls: %q, want %q", got, want)
	}
	if got, want := command(t, "stat", "-c", "%s %A %u %F", a), "3146240 -r-------- 0 regular file\n"; got != want {
		t.Errorf("stat: %q, want %q", got, want)
	}
	if got, want := command(t, "stat", "-f", "-c", "%b %f %s %c", s.Dir()), "770 0 4096 2\n"; got != want {
		t.Errorf("statfs: %q, want %q", got, want)
	}
	for _, path := range []string{a, filepath.Join(s.Dir(), "new")} {
		if _, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("open %s for writing: %v, want EROFS", path, err)
		}
	}
	if _, err := unix.Open(filepath.Join(s.Dir(), "c"), unix.O_RDONLY|unix.O_CLOEXEC, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("open what is not there: %v, want ENOENT", err)
	}
}

func TestAllowOther(t *testing.T) {
	s := mount(t, fuse.Options{AllowOther: true})
	if got, want := command(t, "stat", "-c", "%A", show(t, s, "a", random(512, 1))), "-r--r--r--\n"; got != want {
		t.Errorf("stat: %q, want %q", got, want)
	}
}

// alignedBuffer is as direct I/O wants it.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & 4095
	return b[skip : skip+n]
}

func TestConcurrentReads(t *testing.T) {
	want := random(8<<20+1000, 3)
	for _, flags := range []int{0, unix.O_DIRECT} {
		s := mount(t, fuse.Options{})
		fd := open(t, show(t, s, "disk", want), flags)
		var wg sync.WaitGroup
		for worker := range 16 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(worker), 1))
				buf := alignedBuffer(4 << 20)
				for range 20 {
					off := rnd.IntN(len(want)) &^ 511
					size := (1 + rnd.IntN(len(buf))) &^ 511
					n, err := unix.Pread(fd, buf[:size], int64(off))
					if err != nil || !bytes.Equal(buf[:n], want[off:min(off+size, len(want))]) {
						t.Errorf("read %d at %d, flags %#x: %d bytes, %v", size, off, flags, n, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestCompare(t *testing.T) {
	image, _ := makeImage(t)
	s := mount(t, fuse.Options{})
	d, err := openDisk(image, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddDisk(d); err != nil {
		t.Fatal(err)
	}
	command(t, "cmp", image, filepath.Join(s.Dir(), "disk"))
}

// Other content under an old name is another file: neither the name's cache
// nor that of pages may show the old bytes, nor an open file the new ones.
func TestReplacedDisk(t *testing.T) {
	s := mount(t, fuse.Options{})
	first, second := random(8192, 4), random(8192, 5)
	path := show(t, s, "disk", first)
	old := open(t, path, 0)
	buf := make([]byte, 4096)
	if _, err := unix.Pread(old, buf, 0); err != nil || !bytes.Equal(buf, first[:4096]) {
		t.Fatalf("first disk: %v", err)
	}
	if err := s.RemoveDisk("disk"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(path, new(unix.Stat_t)); !errors.Is(err, unix.ENOENT) {
		t.Errorf("stat of a removed disk: %v, want ENOENT", err)
	}
	show(t, s, "disk", second)
	if _, err := unix.Pread(open(t, path, 0), buf, 0); err != nil || !bytes.Equal(buf, second[:4096]) {
		t.Errorf("second disk: wrong bytes, or %v", err)
	}
	direct := open(t, fmt.Sprintf("/proc/self/fd/%d", open(t, path, 0)), unix.O_DIRECT)
	if err := s.RemoveDisk("disk"); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pread(direct, alignedBuffer(4096), 0); !errors.Is(err, unix.EIO) {
		t.Errorf("read of a removed disk: %v, want EIO", err)
	}
}

// A gate is a device whose reads wait until it is opened.
type gate struct {
	memory
	entered chan struct{}
	open    chan struct{}
}

func (g gate) ReadAt(p []byte, off int64) (int, error) {
	g.entered <- struct{}{}
	<-g.open
	return g.memory.ReadAt(p, off)
}

func TestSlowReadsDoNotStallOthers(t *testing.T) {
	s := mount(t, fuse.Options{})
	g := gate{memory{bytes.NewReader(random(1<<20, 6))}, make(chan struct{}), make(chan struct{})}
	if err := s.AddDisk(fuse.Disk{Name: "slow", ID: "slow", Device: g}); err != nil {
		t.Fatal(err)
	}
	fast := open(t, show(t, s, "fast", random(4096, 7)), unix.O_DIRECT)
	slow := open(t, filepath.Join(s.Dir(), "slow"), unix.O_DIRECT)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			if _, err := unix.Pread(slow, alignedBuffer(4096), int64(i)*4096); err != nil {
				t.Error(err)
			}
		})
	}
	for range 32 {
		<-g.entered // all of them are in the device at once
	}
	if _, err := unix.Pread(fast, alignedBuffer(4096), 0); err != nil {
		t.Error(err)
	}
	removed := make(chan error)
	go func() { removed <- s.RemoveDisk("slow") }()
	select {
	case err := <-removed:
		t.Errorf("removed under 32 reads: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(g.open)
	wg.Wait()
	if err := <-removed; err != nil {
		t.Error(err)
	}
}

func TestUnmountBusyThenClose(t *testing.T) {
	s := mount(t, fuse.Options{})
	path := show(t, s, "disk", random(8192, 8))
	fd := open(t, path, unix.O_DIRECT)
	if err := s.Unmount(); !errors.Is(err, fuse.ErrBusy) {
		t.Fatalf("unmount under an open file: %v, want ErrBusy", err)
	}
	if _, err := unix.Pread(fd, alignedBuffer(4096), 0); err != nil {
		t.Errorf("read after a refused unmount: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pread(fd, alignedBuffer(4096), 4096); err == nil {
		t.Error("read after Close succeeded")
	}
	if err := s.Release(); err != nil {
		t.Errorf("release after the end: %v", err)
	}
	if _, err := s.Descriptor(); err == nil {
		t.Error("descriptor of a session that ended")
	}
}

func TestUnmountedByOthers(t *testing.T) {
	s := mount(t, fuse.Options{})
	command(t, "umount", s.Dir())
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

// TestUnmountByPath unmounts as another process does, through symbolic links.
func TestUnmountByPath(t *testing.T) {
	needMount(t)
	links := t.TempDir()
	for _, c := range []struct{ name, link, target string }{
		{"link to the mount point", "direct", ""}, {"link above it", "above", ".."},
	} {
		s := mount(t, fuse.Options{})
		link := filepath.Join(links, c.link)
		if err := os.Symlink(filepath.Join(s.Dir(), c.target), link); err != nil {
			t.Fatal(err)
		}
		if c.target == ".." {
			link = filepath.Join(link, filepath.Base(s.Dir()))
		}
		if err := fuse.Unmount(link); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := s.Wait(); err != nil {
			t.Errorf("%s: session ended with %v", c.name, err)
		}
		if err := fuse.Unmount(link); !errors.Is(err, fuse.ErrNotMounted) {
			t.Errorf("%s: unmount again: %v, want ErrNotMounted", c.name, err)
		}
	}
	if err := fuse.Unmount(filepath.Join(links, "none", "dir")); err == nil {
		t.Error("unmount of what does not exist: no error")
	}
}

// TestUnmountDead unmounts, through a link, a session that has lost its server, so that nobody can look at it.
func TestUnmountDead(t *testing.T) {
	needMount(t)
	link := filepath.Join(t.TempDir(), "link")
	fd, st := handOver(t, mount(t, fuse.Options{}))
	unmountLate(t, st.Dir)
	if err := errors.Join(unix.Close(fd), os.Symlink(st.Dir, link)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadDir(link); !errors.Is(err, unix.ENOTCONN) {
		t.Fatalf("it has a server still: %v", err)
	}
	if err := fuse.Unmount(link); err != nil {
		t.Error(err)
	}
	if err := fuse.Unmount(link); !errors.Is(err, fuse.ErrNotMounted) {
		t.Errorf("unmount again: %v, want ErrNotMounted", err)
	}
}

// TestUnmountCovered wants a session beneath another mount left alone.
func TestUnmountCovered(t *testing.T) {
	needMount(t)
	s := mount(t, fuse.Options{})
	if err := unix.Mount("other", s.Dir(), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := fuse.Unmount(s.Dir()); !errors.Is(err, fuse.ErrNotMounted) {
		t.Errorf("unmount beneath another mount: %v, want ErrNotMounted", err)
	}
	if err := errors.Join(unix.Unmount(s.Dir(), 0), fuse.Unmount(s.Dir())); err != nil {
		t.Error(err)
	}
	if err := s.Wait(); err != nil {
		t.Errorf("the session ended with %v", err)
	}
}

func TestMountErrors(t *testing.T) {
	needMount(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(dir, "nothing")} {
		if _, err := fuse.Mount(path, fuse.Options{}); err == nil {
			t.Errorf("mounted at %s", path)
		}
	}
	if _, err := fuse.Mount(dir, fuse.Options{InFlight: -1}); err == nil {
		t.Error("mounted with -1 requests in flight")
	}
}

// A killed reader must go once its read ends, and the session must stay well.
func TestKilledReader(t *testing.T) {
	s := mount(t, fuse.Options{})
	g := gate{memory{bytes.NewReader(random(1<<20, 9))}, make(chan struct{}, 64), make(chan struct{})}
	if err := s.AddDisk(fuse.Disk{Name: "slow", ID: "slow", Device: g}); err != nil {
		t.Fatal(err)
	}
	reader := exec.Command("cat", filepath.Join(s.Dir(), "slow"))
	if err := reader.Start(); err != nil {
		t.Fatal(err)
	}
	<-g.entered
	_ = reader.Process.Kill()
	close(g.open)
	if err := waitBounded(t, reader); err == nil {
		t.Error("killed reader succeeded")
	}
	unmounted(t, s)
}
