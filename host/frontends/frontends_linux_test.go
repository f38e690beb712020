package frontends

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
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

func TestFileTakenOver(t *testing.T) {
	needMounts(t)
	s := newStage(t, blockdev.NewFlat(bytes.NewReader(content), int64(len(content))))
	dir := t.TempDir()
	f := s.file()
	s.must(s.offer(f, dir, "disk", nil))
	in := s.release(f)
	next := s.file()
	o := s.must(s.offer(next, dir, "disk", again(in)))
	if got := readPast(t, filepath.Join(dir, "disk")); !bytes.Equal(got, content) {
		t.Errorf("%d bytes read, or wrong ones", len(got))
	}
	if o.Address() != dir {
		t.Errorf("address %q", o.Address())
	}
	s.detach(o)
	if mounted(t, dir) {
		t.Error("still mounted")
	}
	if _, err := s.offer(next, "relative", "disk", nil); !errors.As(err, new(host.SpecError)) {
		t.Errorf("a relative directory: %v", err)
	}
}

// TestFileUnreadable mounts anew over a session that is held and that it cannot go
// on with: whoever looks at that hangs.
func TestFileUnreadable(t *testing.T) {
	needMounts(t)
	for what, state := range map[string]string{"": "", "of another version": `{"session":{"version":99,"dir":"/x"}}`} {
		s := newStage(t, blockdev.NewFlat(bytes.NewReader(content), int64(len(content))))
		s.keeper.holds = true
		dir := t.TempDir()
		f := s.file()
		s.must(s.offer(f, dir, "disk", nil))
		in := s.release(f)
		s.state = json.RawMessage(state)
		if state == "" {
			s.state = nil
		}
		hangs := time.AfterFunc(20*time.Second, func() {
			t.Errorf("state %q: it hangs", what)
			_ = s.keeper.Forget(fusePrefix + "a1")
		})
		next := s.file()
		o, err := s.offer(next, dir, "disk", again(in))
		if state != "" {
			if err == nil {
				t.Error("went on with the state of another version")
			}
			o, err = s.offer(next, dir, "disk", again(in)) // as a host tries again
		}
		s.must(o, err)
		hangs.Stop()
		if got := readPast(t, filepath.Join(dir, "disk")); !bytes.Equal(got, content) {
			t.Errorf("%d bytes read, or wrong ones", len(got))
		}
		s.detach(o)
	}
}

// TestFileEnds tells an end on purpose from others.
func TestFileEnds(t *testing.T) {
	needMounts(t)
	s := newStage(t, blockdev.NewFlat(bytes.NewReader(content), int64(len(content))))
	dir := t.TempDir()
	f := s.file()
	o := s.must(s.offer(f, dir, "disk", nil))
	held, err := unix.Open(filepath.Join(dir, "disk"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := o.Detach(soon, false); !errors.Is(err, host.ErrBusy) {
		t.Errorf("detach of a file that is open: %v", err)
	}
	_ = unix.Close(held)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	<-o.Done()
	if err := o.Err(); err != nil || s.keeper.kept() != 0 {
		t.Errorf("unmounted by somebody: %v, %d descriptors are kept", err, s.keeper.kept())
	}
	// Unmounted while no process served it.
	s.must(s.offer(f, dir, "disk", nil))
	in := s.release(f)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	o, err = s.offer(s.file(), dir, "disk", again(in))
	if errors.Is(err, host.ErrGone) {
		return // a kernel that says so at once
	}
	<-s.must(o, err).Done()
	if err := o.Err(); err != nil || s.keeper.kept() != 0 {
		t.Errorf("to go on with what was unmounted: %v, %d descriptors are kept", err, s.keeper.kept())
	}
}

func (s *stage) mount(run string) *Mount {
	return &Mount{File: File{Keeper: s.keeper, Logger: s.log}, Runtime: run}
}

func TestMountTakenOver(t *testing.T) {
	s := newStage(t, ext4Disk(t))
	run, dir := t.TempDir(), t.TempDir()
	m := s.mount(run)
	s.must(s.offer(m, dir, "", nil))
	if _, err := s.offer(m, dir, "", func(o *host.Offer) { o.ID = "b2" }); err == nil {
		t.Error("mounted over another mount")
	}
	for range 3 {
		in := s.release(m)
		m = s.mount(run)
		s.must(s.offer(m, dir, "", again(in)))
		if got := readPast(t, filepath.Join(dir, "f")); !bytes.Equal(got, content) {
			t.Fatalf("%d bytes read, or wrong ones", len(got))
		}
	}
	in := s.release(m)
	m = s.mount(run)
	s.detach(s.must(s.offer(m, dir, "", again(in))))
	s.nothingLeft(run, dir)
}

// A flatWriter is memory that can be written.
type flatWriter struct {
	mu sync.RWMutex
	b  []byte
}

func (w *flatWriter) Size() int64 { return int64(len(w.b)) }

func (w *flatWriter) ReadAt(p []byte, off int64) (int, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return copy(p, w.b[off:]), nil
}

func (w *flatWriter) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return copy(w.b[off:], p), nil
}

func (w *flatWriter) Flush() error { return nil }

func (w *flatWriter) Discard(off, length int64) error {
	_, err := w.WriteAt(make([]byte, length), off)
	return err
}

func (w *flatWriter) WriteZeroes(off, length int64) error { return w.Discard(off, length) }

// TestMountWritten writes to a mount, over a release, and finds it in the disk.
func TestMountWritten(t *testing.T) {
	flat := ext4Disk(t)
	disk := &flatWriter{b: make([]byte, flat.Size())}
	if _, err := flat.ReadAt(disk.b, 0); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, disk)
	run, dir := t.TempDir(), t.TempDir()
	m := s.mount(run)
	s.must(s.offer(m, dir, "", nil))
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("g")
	in := s.release(m)
	m = s.mount(run)
	o := s.must(s.offer(m, dir, "", again(in)))
	write("h")
	s.detach(o)
	s.nothingLeft(run, dir)

	o = s.must(s.offer(m, dir, "", nil))
	for _, name := range []string{"f", "g", "h"} {
		if got := readPast(t, filepath.Join(dir, name)); !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes read, or wrong ones", name, len(got))
		}
	}
	s.detach(o)
}

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
	if file, err := loopmount.BackingFile(device); err != nil || file != "" {
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
		if err == nil && file == "" {
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

// TestMountRoom fills a mount, also one that is made anew in another process: what
// may be written is bounded, and is met as a full disk.
func TestMountRoom(t *testing.T) {
	flat := ext4Disk(t)
	disk := &flatWriter{b: make([]byte, flat.Size())}
	if _, err := flat.ReadAt(disk.b, 0); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, disk)
	run, dir := t.TempDir(), t.TempDir()
	m := s.mount(run)
	room := func(o *host.Offer) { o.Room = 256 << 10 }
	s.must(s.offer(m, dir, "", room))
	fill := func(name string, bytes int) error {
		return os.WriteFile(filepath.Join(dir, name), make([]byte, bytes), 0o600)
	}
	if err := fill("most", 192<<10); err != nil {
		t.Fatal(err)
	}
	if err := fill("more", 128<<10); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("beyond the room: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "more")); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Syncfs(int(d.Fd())), d.Close()); err != nil { // or it goes with the mount
		t.Fatal(err)
	}
	s.release(m).Close()
	m = s.mount(run)
	o := s.must(s.offer(m, dir, "", func(o *host.Offer) {
		room(o)
		again(&keep.Inherited{})(o)
		save := o.Save
		o.Save = func(b json.RawMessage) error { // after each of which the process may be killed
			var st fileState
			if err := json.Unmarshal(b, &st); err != nil || st.Reserved == 0 {
				t.Errorf("what is set aside is forgotten: %s, %v", b, err)
			}
			return save(b)
		}
	}))
	if err := fill("more", 128<<10); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("beyond the room, mounted anew: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "most")); err != nil {
		t.Fatal(err)
	}
	if err := fill("more", 128<<10); err != nil {
		t.Errorf("in the room of what was removed: %v", err)
	}
	s.detach(o)
	s.nothingLeft(run, dir)
}

func (s *stage) nothingLeft(run, dir string) {
	s.t.Helper()
	names, err := os.ReadDir(run)
	if err != nil || len(names) != 0 || mounted(s.t, dir) || mounted(s.t, run) {
		s.t.Errorf("left: %v, %v, or a mount", names, err)
	}
}

// TestMountLost mounts anew where the descriptor went with its process.
func TestMountLost(t *testing.T) {
	s := newStage(t, ext4Disk(t))
	run, dir := t.TempDir(), t.TempDir()
	m := s.mount(run)
	s.must(s.offer(m, dir, "", nil))
	s.release(m).Close()
	m = s.mount(run)
	s.must(s.offer(m, dir, "", again(&keep.Inherited{})))
	if got := readPast(t, filepath.Join(dir, "f")); !bytes.Equal(got, content) {
		t.Fatalf("%d bytes read, or wrong ones", len(got))
	}
	// Killed before it had saved its state, which is as good as nothing.
	in := s.release(m)
	s.state = nil
	m = s.mount(run)
	o := s.must(s.offer(m, dir, "", again(in)))
	if got := readPast(t, filepath.Join(dir, "f")); !bytes.Equal(got, content) {
		t.Fatalf("%d bytes read, or wrong ones", len(got))
	}
	s.detach(o)
	s.nothingLeft(run, dir)
}

// TestMountEnds sees who unmounts, whether it served then or not.
func TestMountEnds(t *testing.T) {
	s := newStage(t, ext4Disk(t))
	run, dir := t.TempDir(), t.TempDir()
	m := s.mount(run)
	o := s.must(s.offer(m, dir, "", nil))
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	<-o.Done()
	if err := o.Err(); err != nil {
		t.Errorf("unmounted by somebody: %v", err)
	}
	s.nothingLeft(run, dir)
	s.must(s.offer(m, dir, "", nil))
	in := s.release(m)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.offer(s.mount(run), dir, "", again(in)); !errors.Is(err, host.ErrGone) {
		t.Errorf("to go on with what was unmounted: %v", err)
	}
	s.nothingLeft(run, dir)
	if n := s.keeper.kept(); n != 0 {
		t.Errorf("%d descriptors are kept", n)
	}
}

// TestMountInUse waits for users, and takes it from them if it is to.
func TestMountInUse(t *testing.T) {
	s := newStage(t, ext4Disk(t))
	run, dir := t.TempDir(), t.TempDir()
	m := s.mount(run)
	o := s.must(s.offer(m, dir, "", nil))
	held, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := o.Detach(soon, false); !errors.Is(err, host.ErrBusy) {
		t.Errorf("detach of a mount in use: %v", err)
	}
	if got := readPast(t, filepath.Join(dir, "f")); !bytes.Equal(got, content) {
		t.Error("it serves no longer")
	}
	if err := o.Detach(soon, true); err != nil {
		t.Errorf("forced: %v", err)
	}
	_ = unix.Close(held)
	s.nothingLeft(run, dir)
}

func (s *stage) nbd() *NBD { return &NBD{Keeper: s.keeper, Logger: s.log} }

func TestNBDTakenOver(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 1)
	s := newStage(t, blockdevtest.NewMemory(want, nil))
	for _, where := range []string{"unix:" + filepath.Join(t.TempDir(), "s"), "tcp::0"} {
		s.state = nil
		n := s.nbd()
		first := s.must(s.offer(n, where, "a", nil))
		s.must(s.offer(n, where, "b", func(o *host.Offer) { o.ID = "b2" }))
		c, err := nbdclient.Dial(t.Context(), first.Address())
		if err != nil {
			t.Fatal(err)
		}
		in := s.release(n)
		n = s.nbd()
		o := s.must(s.offer(n, where, "a", again(in)))
		if o.Address() != first.Address() {
			t.Errorf("was at %s, is at %s", first.Address(), o.Address())
		}
		got := make([]byte, 4096)
		if _, err := c.ReadAt(got, 8192); err != nil || !bytes.Equal(got, want[8192:8192+4096]) {
			t.Errorf("%s: read of a client that went along: %v", where, err)
		}
		soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := o.Detach(soon, false); !errors.Is(err, host.ErrBusy) {
			t.Errorf("detach with a client: %v", err)
		}
		cancel()
		_ = c.Close()
		// Without descriptors, after a crash, it is where it was.
		s.release(n).Close()
		n = s.nbd()
		o = s.must(s.offer(n, where, "a", again(nil)))
		if o.Address() != first.Address() {
			t.Errorf("was at %s, is at %s", first.Address(), o.Address())
		}
		s.detach(o)
		if path, isUnix := strings.CutPrefix(where, "unix:"); isUnix {
			if _, err := os.Lstat(path); err == nil {
				t.Error("the socket is left")
			}
		}
	}
}

// TestNBDMany offers a thousand disks at once, at one address, and has a client of each.
func TestNBDMany(t *testing.T) {
	const many = 1000
	s := newStage(t, blockdevtest.NewMemory(blockdevtest.Pattern(4096, 1), nil))
	n := s.nbd()
	where := "unix:" + filepath.Join(t.TempDir(), "s")
	var all errgroup.Group
	offered, clients := make([]host.Offered, many), make([]*nbdclient.Client, many)
	for i := range many {
		all.Go(func() (err error) {
			offered[i], err = n.Offer(t.Context(), host.Offer{
				ID: fmt.Sprint("a", i), Where: where, Name: fmt.Sprint("disk", i), Disk: "sha256:1", Device: s.device,
				Save: func(json.RawMessage) error { return nil },
			})
			if err == nil {
				err = n.Begin()
			}
			if err == nil {
				clients[i], err = nbdclient.Dial(t.Context(), offered[i].Address())
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	if got := n.Stats(); got.Connections != many || got.Refused != 0 {
		t.Errorf("%d connections, and %d refused", got.Connections, got.Refused)
	}
	for i := range many {
		if clients[i] != nil {
			_ = clients[i].Close()
		}
		if offered[i] != nil {
			all.Go(func() error { return offered[i].Detach(t.Context(), false) })
		}
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
}

// TestNotKept leaves nothing with a keeper that fails: a socket that it held would
// be in the way of whoever listens there next.
func TestNotKept(t *testing.T) {
	s := newStage(t, blockdevtest.NewMemory(make([]byte, 1<<20), nil))
	s.keeper.holds = true
	try := func(f host.Frontend, where string) {
		t.Helper()
		s.keeper.fails = errors.New("the keeper is full")
		if _, err := s.offer(f, where, "a", nil); !errors.Is(err, s.keeper.fails) || s.keeper.kept() != 0 {
			t.Errorf("%T: offered, %v, with %d descriptors kept", f, err, s.keeper.kept())
		}
		s.keeper.fails = nil
		s.detach(s.must(s.offer(f, where, "a", nil)))
	}
	try(s.nbd(), "tcp::0")
	needMounts(t)
	try(s.file(), t.TempDir())
}

func TestNBDMistakes(t *testing.T) {
	s := newStage(t, blockdevtest.NewMemory(make([]byte, 1<<20), nil))
	n := s.nbd()
	where := "unix:" + filepath.Join(t.TempDir(), "s")
	o := s.must(s.offer(n, where, "a", nil))
	for what, change := range map[string]func(*host.Offer){
		"the same name": func(*host.Offer) {},
		"with TLS":      func(o *host.Offer) { o.TLS = &host.TLS{Certificate: "x", Key: "y"} },
		"bad name":      func(o *host.Offer) { o.Name = "a\x00b" },
	} {
		if _, err := s.offer(n, where, "a", change); !errors.As(err, new(host.SpecError)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, bad := range []string{"ftp:x", "unix:" + filepath.Join(t.TempDir(), "no", "folder")} {
		if _, err := s.offer(n, bad, "a", nil); err == nil {
			t.Errorf("offered at %s", bad)
		}
	}
	if _, err := s.offer(n, "tcp::0", "a", func(o *host.Offer) { o.TLS = &host.TLS{Certificate: "nosuch", Key: "nosuch"} }); err == nil {
		t.Error("offered with a certificate that is not there")
	}
	s.detach(o)
}

// TestNBDListenerFails ends what was offered there.
func TestNBDListenerFails(t *testing.T) {
	s := newStage(t, blockdevtest.NewMemory(make([]byte, 1<<20), nil))
	n := s.nbd()
	where := "unix:" + filepath.Join(t.TempDir(), "s")
	o := s.must(s.offer(n, where, "a", nil))
	n.mu.Lock()
	_ = n.servers[where].listeners[0].Close()
	n.mu.Unlock()
	<-o.Done()
	if o.Err() == nil {
		t.Error("no reason")
	}
	s.detach(o)
}
