package frontends

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/host"
)

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
