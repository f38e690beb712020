package frontends

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
)

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

// TestMountCovered has another mount cover one, while it is served and when another process goes on.
func TestMountCovered(t *testing.T) {
	s := newStage(t, ext4Disk(t))
	run, dir := t.TempDir(), t.TempDir()
	m := s.mount(run)
	s.must(s.offer(m, dir, "", nil))
	held, err := os.Open(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	in := s.release(m)
	m = s.mount(run)
	o := s.must(s.offer(m, dir, "", again(in)))
	b := make([]byte, len(content))
	if _, err := held.ReadAt(b, 0); err != nil || !bytes.Equal(b, content) {
		t.Errorf("what is covered is not served: %v", err)
	}
	_ = held.Close()
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := o.Detach(soon, false); !errors.Is(err, host.ErrBusy) {
		t.Errorf("detach of what is covered: %v", err)
	}
	if err := o.Detach(soon, true); !errors.Is(err, host.ErrBusy) {
		t.Errorf("forced detach of what is covered: %v", err)
	}
	covered := func() {
		t.Helper()
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
			t.Fatalf("the mount of another has gone: type %#x, %v", st.Type, err)
		}
	}
	covered()
	s.release(m).Close() // and the descriptor with it
	m = s.mount(run)
	if _, err := s.offer(m, dir, "", again(&keep.Inherited{})); err == nil || errors.Is(err, host.ErrGone) {
		t.Errorf("mounted over another's mount, or taken for unmounted: %v", err)
	}
	covered()
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	o = s.must(s.offer(m, dir, "", again(&keep.Inherited{})))
	readPast(t, filepath.Join(dir, "f"))
	// Its own directory, bound on itself, is another mount.
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	soon, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := o.Detach(soon, false); !errors.Is(err, host.ErrBusy) {
		t.Errorf("detach of what is bound on itself: %v", err)
	}
	in = s.release(m)
	m = s.mount(run)
	o = s.must(s.offer(m, dir, "", again(in)))
	if err := o.Detach(soon, true); !errors.Is(err, host.ErrBusy) {
		t.Errorf("forced detach of what is bound on itself, by the next process: %v", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	s.detach(o)
	s.nothingLeft(run, dir)
}
