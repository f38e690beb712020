package host

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/overlay"
)

func writableSpec(where string, o Overlay) Spec {
	s := spec("tree", where)
	s.Overlay = &o
	return s
}

// writer returns what is offered at a place, to write to.
func (s *site) writer(where string) blockdev.Writer {
	s.t.Helper()
	o, _ := s.front.last(where)
	w, ok := o.Device.(blockdev.Writer)
	if !ok {
		s.t.Fatalf("%s cannot be written", where)
	}
	return w
}

// mark is what tests write, to a place that the image leaves free.
const markAt = 1 << 30

func write(t testing.TB, w io.WriterAt, text string) {
	t.Helper()
	if _, err := w.WriteAt([]byte(text), markAt); err != nil {
		t.Fatal(err)
	}
}

func reads(t testing.TB, r io.ReaderAt, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := r.ReadAt(b, markAt); err != nil || string(b) != want {
		t.Errorf("reads %q, %v; want %q", b, err, want)
	}
}

// TestOverlay writes to two disks of one image, which keep their writes apart, and
// takes them down: one overlay goes, one stays and is attached again.
func TestOverlay(t *testing.T) {
	s := newSite(t)
	h := s.start()
	dir := filepath.Join(t.TempDir(), "kept")
	infos := s.attach(h, spec("tree", "plain"), writableSpec("own", Overlay{}), writableSpec("kept", Overlay{Dir: dir, Keep: true}))
	if o, _ := s.front.last("plain"); o.Device.(*device) == nil {
		t.Error("a disk without an overlay can be written")
	}
	write(t, s.writer("own"), "own")
	write(t, s.writer("kept"), "kept")
	reads(t, s.writer("own"), "own\x00")
	reads(t, s.writer("kept"), "kept")
	o, _ := s.front.last("plain")
	reads(t, o.Device, "\x00\x00\x00\x00")
	if got := readFile(t, Offer{Device: s.writer("own")}); got != strings.Repeat("one", 1000) {
		t.Errorf("the file has %d bytes", len(got))
	}
	own := h.List()[1].Spec.Overlay.Dir
	if got := h.List()[2].Served; got.Reads == 0 || got.Bytes < 4 || got.Errors != 0 {
		t.Errorf("what is read of a disk that can be written counts as %+v", got)
	}
	if w := h.List()[1].Written; w == nil || w.Bytes != 3 || w.Allocated < 4096 || !strings.HasPrefix(own, s.state) {
		t.Errorf("info: %+v, overlay in %s", w, own)
	}
	again := writableSpec("other", Overlay{Dir: dir, Keep: true})
	if _, err := h.Attach(t.Context(), again); !errors.As(err, new(SpecError)) || !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("an overlay of two disks: %v", err)
	}
	for _, i := range infos {
		if err := h.Detach(t.Context(), i.ID, false); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(own); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an overlay that was not to be kept is left: %v", err)
	}
	s.publish("other", "two")
	wrong := again
	wrong.Image = "other"
	if _, err := h.Attach(t.Context(), wrong); !errors.As(err, new(SpecError)) || !strings.Contains(err.Error(), "is of the disk "+infos[2].Disk) {
		t.Errorf("an overlay over another disk: %v", err)
	}
	again.Overlay.Size, again.Overlay.Keep = 3<<30, false
	grown := s.attach(h, again)
	reads(t, s.writer("other"), "kept")
	if grown[0].Size != 3<<30 || s.writer("other").Size() != 3<<30 {
		t.Errorf("grown to %d bytes", grown[0].Size)
	}
	if err := h.Detach(t.Context(), grown[0].ID, false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the overlay is left: %v", err)
	}
	s.close(h)
}

// TestOverlayGoneWithWait unmounts disks, waits for those that are not attached any more as well, and looks
// for what was written to them.
func TestOverlayGoneWithWait(t *testing.T) {
	s := newSite(t)
	h := s.start()
	for range 50 {
		info := s.attach(h, writableSpec("own", Overlay{}))[0]
		write(t, s.writer("own"), "own")
		close(s.front.at("own").done)
		for len(h.List()) > 0 {
			runtime.Gosched()
		}
		if err := h.Wait(t.Context(), info.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(info.Spec.Overlay.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("the overlay of a disk that has ended: %v", err)
		}
	}
}

// TestOverlayRestart has a host come back, by itself and by a hand-over that is
// taken back: what was written is there, flushed or not.
func TestOverlayRestart(t *testing.T) {
	s := newSite(t)
	h := s.start()
	i := s.attach(h, writableSpec("a", Overlay{Size: 3 << 30}))
	write(t, s.writer("a"), "first")
	list, err := h.Release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = list[0].File.Close() // of the folder's lock
	done := make(chan error, 1)
	go func() { // waits
		_, err := s.writer("a").WriteAt([]byte("later"), markAt+5)
		done <- err
	}()
	if err := h.Resume(t.Context(), &keep.Inherited{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	eventually(t, "the disk is back", func() bool { return states(h)[Ready] == 1 })
	reads(t, s.writer("a"), "firstlater")
	s.close(h)

	s.broken.Store(2)
	h = s.start()
	reads(t, s.writer("a"), "firstlater") // waits for the store
	if back := h.List(); back[0].ID != i[0].ID || back[0].Size != 3<<30 || back[0].Spec.Overlay.Dir != i[0].Spec.Overlay.Dir {
		t.Errorf("came back as %+v", back)
	}
	// What a process left that died in a Detach goes.
	if err := os.Remove(filepath.Join(s.state, i[0].ID+recordSuffix)); err != nil {
		t.Fatal(err)
	}
	s.close(h)
	h = s.start()
	if _, err := os.Stat(i[0].Spec.Overlay.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an overlay of no attachment is left: %v", err)
	}
	s.close(h)
}

// TestOverlayWithoutState ends overlays with the process, unless they have a folder. What
// a process that was killed has left goes with the next one's.
func TestOverlayWithoutState(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	if err := os.WriteFile(filepath.Join(temp, "rivulet-host-killed.lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(temp, "rivulet-host-killed"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.state = ""
	h := s.bare()
	dir := filepath.Join(t.TempDir(), "kept")
	s.attach(h, writableSpec("own", Overlay{}), writableSpec("kept", Overlay{Dir: dir, Keep: true}))
	own := h.List()[0].Spec.Overlay.Dir
	for _, where := range []string{"own", "kept"} {
		write(t, s.writer(where), "text")
	}
	if key, err := os.ReadFile(filepath.Join(own, "key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key of an overlay that ends with the process is in a file: %d bytes, %v", len(key), err)
	}
	s.close(h)
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("an overlay outlives its process: %v, %v", left, err)
	}
	h = s.bare()
	s.attach(h, writableSpec("kept", Overlay{Dir: dir, Keep: true}))
	reads(t, s.writer("kept"), "text")
	s.close(h)
}

// TestOverlayUndone leaves nothing of an Attach that fails, but what was there.
func TestOverlayUndone(t *testing.T) {
	s := newSite(t)
	h := s.start()
	dir, fresh := filepath.Join(t.TempDir(), "kept"), filepath.Join(t.TempDir(), "new")
	i := s.attach(h, writableSpec("a", Overlay{Dir: dir, Keep: true}))
	write(t, s.writer("a"), "text")
	if err := h.Detach(t.Context(), i[0].ID, false); err != nil {
		t.Fatal(err)
	}
	s.front.fail, s.front.failures = map[string]error{"bad": errBroken}, -1
	for _, o := range []Overlay{{Dir: dir, Keep: true}, {Dir: fresh, Keep: true}, {}} {
		if _, err := h.Attach(t.Context(), writableSpec("bad", o)); !errors.Is(err, errBroken) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []Overlay{
		{Dir: "relative"}, {Keep: true}, {Dir: "/" + strings.Repeat("x", maxText)}, {Size: -512}, {Size: 100}, {Quota: -1},
		{Dir: fresh, Size: 512}, {Dir: filepath.Join(s.t.TempDir(), "x"), Size: 1 << 62},
	} {
		if _, err := h.Attach(t.Context(), writableSpec("a", o)); err == nil {
			t.Errorf("%+v: attached", o)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(s.state, overlayPrefix+"*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	if _, err := os.Stat(filepath.Join(fresh, "index")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a new overlay is left: %v", err)
	}
	s.attach(h, writableSpec("a", Overlay{Dir: dir, Keep: true}))
	reads(t, s.writer("a"), "text")
	s.close(h)
}

// TestSnapshot reads a disk as it was while it is written to.
func TestSnapshot(t *testing.T) {
	s := newSite(t)
	h := s.start()
	i := s.attach(h, writableSpec("a", Overlay{}), spec("tree", "b"))
	write(t, s.writer("a"), "before")
	snap, err := h.Snapshot(t.Context(), i[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.writer("a"), "after!")
	reads(t, snap, "before")
	reads(t, s.writer("a"), "after!")
	var changed [][2]int64
	err = snap.Changed(t.Context(), func(off, length int64, zero bool) bool {
		changed = append(changed, [2]int64{off, length})
		return true
	})
	if err != nil || len(changed) != 1 || changed[0] != [2]int64{markAt, 4096} || snap.Info.Digest != i[0].Digest {
		t.Errorf("changed: %v, %v, of %+v", changed, err, snap.Info)
	}
	if err := snap.Close(); err != nil {
		t.Error(err)
	}
	for range mergeLayers + 3 {
		snap, err := h.Snapshot(t.Context(), i[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		write(t, s.writer("a"), "again!")
		if err := snap.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := h.List()[0].Written.Layers; n > mergeLayers {
		t.Errorf("%d layers are left", n)
	}
	if _, err := h.Snapshot(t.Context(), i[1].ID); !errors.Is(err, ErrReadOnly) || !errors.As(err, new(SpecError)) {
		t.Errorf("snapshot of a read-only disk: %v", err)
	}
	if _, err := h.Snapshot(t.Context(), "nosuch"); !errors.Is(err, ErrNotFound) {
		t.Errorf("snapshot of nothing: %v", err)
	}
	if snap, err = h.Snapshot(t.Context(), i[0].ID); err != nil {
		t.Fatal(err)
	}
	s.close(h)
	if _, err := snap.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("a snapshot outlives its host")
	}
	if err := snap.Close(); err != nil {
		t.Errorf("close after the host's end: %v", err)
	}
	if _, err := h.Snapshot(t.Context(), i[0].ID); !errors.Is(err, ErrClosed) {
		t.Errorf("snapshot of a host that is closed: %v", err)
	}
}
