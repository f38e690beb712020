package frontends

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A stage is where one frontend after the other offers a disk.
type stage struct {
	t      *testing.T
	keeper *keeper
	device blockdev.Device
	state  json.RawMessage
	log    *slog.Logger
}

func newStage(t *testing.T, d blockdev.Device) *stage {
	return &stage{t: t, keeper: &keeper{}, device: d, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func (s *stage) offer(f host.Frontend, where, name string, change func(*host.Offer)) (host.Offered, error) {
	s.t.Helper()
	o := host.Offer{
		ID: "a1", Where: where, Name: name, Disk: "sha256:1", Device: s.device, State: s.state,
		Save: func(b json.RawMessage) error { s.state = b; return nil },
	}
	if change != nil {
		change(&o)
	}
	offered, err := f.Offer(s.t.Context(), o)
	if err == nil {
		err = f.Begin()
	}
	return offered, err
}

func (s *stage) must(offered host.Offered, err error) host.Offered {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	return offered
}

// again is what the next process offers, with what is inherited.
func again(in *keep.Inherited) func(*host.Offer) {
	return func(o *host.Offer) { o.Again, o.Inherited = true, in }
}

// release ends a frontend and returns what the next one inherits.
func (s *stage) release(f host.Frontend) *keep.Inherited {
	s.t.Helper()
	list, err := f.Release(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	in := &keep.Inherited{}
	for _, d := range list {
		in.Add(d)
	}
	return in
}

func (s *stage) detach(o host.Offered) {
	s.t.Helper()
	if err := o.Detach(s.t.Context(), false); err != nil {
		s.t.Fatal(err)
	}
	if n := s.keeper.kept(); n != 0 {
		s.t.Errorf("%d descriptors are kept after detach", n)
	}
}

func (s *stage) file() *File { return &File{Keeper: s.keeper, Logger: s.log} }

func needMounts(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			t.Skip("needs ", device)
		}
	}
}

// ext4Disk returns a disk with a file system with one file, "f", in it.
func ext4Disk(t *testing.T) blockdev.Device {
	t.Helper()
	needMounts(t)
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("needs mke2fs")
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tree", "f"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", filepath.Join(dir, "tree"), image, "16M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return blockdev.NewFlat(bytes.NewReader(b), int64(len(b)))
}

var content = bytes.Repeat([]byte("some content\n"), 10000)

// mounted reports whether anything is mounted below dir.
func mounted(t *testing.T, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+dir)
}

// readPast reads a file past the page cache. It must not be opened by package os,
// see frontend/fuse.
func readPast(t *testing.T, path string) []byte {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
	b := make([]byte, len(content)+10)
	n := 0
	for {
		m, err := unix.Read(fd, b[n:])
		if err != nil {
			t.Fatalf("read %s: %v", path, err)
		}
		if n += m; m == 0 || n == len(b) {
			return b[:n]
		}
	}
}
