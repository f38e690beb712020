package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/openfiles"
)

// readFile reads the image's file off an offered device.
func readFile(t testing.TB, o Offer) string {
	t.Helper()
	fsys, err := ext4.Open(o.Device, o.Device.Size())
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open("file")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestShared has several attachments of one image, by name and by digest, which
// share a disk that goes with the last; another reader of it does not share.
func TestShared(t *testing.T) {
	s := newSite(t)
	h := s.start()
	first := s.attach(h, spec("tree", "a"), spec("tree", "b"))
	s.attach(h, spec(first[0].Digest, "c"))
	h.mu.Lock()
	disks := len(h.disks)
	h.mu.Unlock()
	if disks != 1 || s.opens.Load() != 1 {
		t.Errorf("%d disks, of a store opened %d times; want one", disks, s.opens.Load())
	}
	for _, where := range []string{"a", "b", "c"} {
		o, _ := s.front.last(where)
		if got := readFile(t, o); got != strings.Repeat("one", 1000) {
			t.Errorf("%s reads %d bytes", where, len(got))
		}
	}
	stranger := spec("tree", "d")
	stranger.Identities = []string{"/somebody/else"}
	if _, err := h.Attach(t.Context(), stranger); err == nil {
		t.Error("who cannot open the image shares the disk of who can")
	}
	for _, i := range h.List() {
		if err := h.Detach(t.Context(), i.ID, false); err != nil {
			t.Error(err)
		}
	}
	h.mu.Lock()
	disks = len(h.disks)
	h.mu.Unlock()
	if disks != 0 || len(s.records()) != 0 {
		t.Errorf("%d disks and %d records are left", disks, len(s.records()))
	}
	s.close(h)
}

// TestSharedAtOnce attaches one image from many goroutines at once.
func TestSharedAtOnce(t *testing.T) {
	s := newSite(t)
	h := s.start()
	done := make(chan error)
	const n = 50
	for i := range n {
		go func() {
			_, err := h.Attach(t.Context(), spec("tree", fmt.Sprint("place", i)))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.disks) != 1 || len(h.attached) != n {
		t.Errorf("%d disks, %d attachments", len(h.disks), len(h.attached))
	}
}

func TestAttachAllOrNone(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.front.fail, s.front.failures = map[string]error{"bad": errBroken}, -1
	for what, specs := range map[string][]Spec{
		"unknown image":    {spec("tree", "a"), spec("nosuch", "b")},
		"failing frontend": {spec("tree", "a"), spec("tree", "bad")},
		"no such frontend": {spec("tree", "a"), {Image: "tree", Store: "memory", Frontend: "other", Where: "b"}},
		"no image":         {spec("tree", "a"), spec("", "b")},
		"secret":           {spec("tree", "a"), {Image: "tree", Store: "memory", Frontend: "double", Where: "b", Identities: []string{"age-secret-key-1abc"}}},
		"too long":         {spec("tree", "a"), spec("tree", strings.Repeat("x", maxText+1))},
		"too long TLS":     {spec("tree", "a"), {Image: "tree", Store: "memory", Frontend: "double", Where: "b", TLS: &TLS{Key: strings.Repeat("x", maxText+1)}}},
		"bad key":          {spec("tree", "a"), {Image: "tree", Store: "memory", Frontend: "double", Where: "b", Required: []string{"nonsense"}}},
	} {
		if _, err := h.Attach(t.Context(), specs...); err == nil {
			t.Errorf("%s: attached", what)
		}
		if s.front.at("a") != nil || len(h.List()) != 0 || len(s.records()) != 0 || len(h.disks) != 0 {
			t.Errorf("%s: something is left", what)
		}
	}
}

// long returns texts that are as long as they may be, and six times that in JSON.
func long(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = strings.Repeat("\x01", maxText)
	}
	return list
}

// TestGoneWithoutStore forgets what somebody has unmounted though its disk cannot
// be opened, whether that was before this host or under it.
func TestGoneWithoutStore(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "gone"), spec("tree", "goes"))
	s.close(h)
	s.front.fail, s.front.failures = map[string]error{"gone": ErrGone}, -1
	s.broken.Store(-1)
	h = s.start()
	eventually(t, "what is gone to be forgotten", func() bool { return len(h.List()) == 1 && len(s.records()) == 1 })
	close(s.front.at("goes").done)
	eventually(t, "what goes to be forgotten", func() bool { return len(h.List()) == 0 && len(s.records()) == 0 })
}

// TestPrepareBesideWriter leaves alone what the process before is about to write.
func TestPrepareBesideWriter(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "a"))
	path := filepath.Join(s.state, ".new-1")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done, err := s.bare().Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// TestDeviceIsBounded ends a read that nobody will serve, and one of a device that
// is closed.
func TestDeviceIsBounded(t *testing.T) {
	d := newDevice("x", 4096, time.Millisecond)
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, errNotOpen) {
		t.Errorf("read of a device without a disk: %v", err)
	}
	d = newDevice("x", 4096, time.Hour)
	close(d.closed)
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, errNotOpen) {
		t.Errorf("read of a closed device: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d = newDevice("x", 4096, time.Hour)
	if err := d.Prefetch(ctx, 0, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("prefetch: %v", err)
	}
	if err := d.Extents(ctx, 0, 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("extents: %v", err)
	}
}

// TestLeftToTheNext ends reads that wait for a disk when their process leaves, so that
// they are asked again, and lets them wait when it goes on after all.
func TestLeftToTheNext(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "a"))
	h = s.restartWithoutStore(h)
	o, _ := s.front.last("a")
	read := make(chan error)
	go func() { _, err := o.Device.ReadAt(make([]byte, 1), 0); read <- err }()
	list, err := h.Release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := <-read; !errors.Is(err, blockdev.ErrLeft) {
		t.Errorf("a read that waited: %v", err)
	}
	if _, err := o.Device.ReadAt(make([]byte, 1), 0); !errors.Is(err, blockdev.ErrLeft) {
		t.Errorf("a read after that: %v", err)
	}
	in := &keep.Inherited{}
	for _, d := range list {
		in.Add(d)
	}
	if err := h.Resume(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	o, _ = s.front.last("a")
	go func() { _, err := o.Device.ReadAt(make([]byte, 1), 0); read <- err }()
	s.broken.Store(0)
	if err := <-read; err != nil {
		t.Errorf("a read when it goes on: %v", err)
	}
}

// TestReleaseIsBounded cancels an Attach that does not end, before Release.
func TestReleaseIsBounded(t *testing.T) {
	s := newSite(t)
	c := s.config()
	opening := make(chan struct{})
	c.Open = func(ctx context.Context, _ string) (Source, error) {
		close(opening)
		<-ctx.Done()
		return Source{}, context.Cause(ctx)
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Recover(t.Context(), &keep.Inherited{}); err != nil {
		t.Fatal(err)
	}
	attached := make(chan error)
	go func() { _, err := h.Attach(t.Context(), spec("tree", "a")); attached <- err }()
	<-opening
	released := make(chan error)
	go func() { _, err := h.Release(t.Context()); released <- err }()
	h.ending.begin() // as Release does after attachGrace
	if err := <-attached; !errors.Is(err, ErrClosed) {
		t.Errorf("attach: %v", err)
	}
	if err := <-released; err != nil {
		t.Errorf("release: %v", err)
	}
	s.close(h)
}

// TestEnds forgets an attachment that somebody has unmounted, or that failed.
func TestEnds(t *testing.T) {
	s := newSite(t)
	h := s.start()
	infos := s.attach(h, spec("tree", "a"), spec("tree", "b"))
	failed := s.front.at("b")
	failed.err = errBroken
	close(s.front.at("a").done)
	close(failed.done)
	if err := h.Wait(t.Context(), infos[0].ID); err != nil {
		t.Errorf("unmounted by somebody: %v", err)
	}
	eventually(t, "both to be forgotten", func() bool { return len(h.List()) == 0 && len(s.records()) == 0 })
	if err := h.Detach(t.Context(), infos[1].ID, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("detach of what has ended: %v", err)
	}
}

func TestWait(t *testing.T) {
	s := newSite(t)
	h := s.start()
	infos := s.attach(h, spec("tree", "a"), spec("tree", "b"))
	waits := make([]chan error, 2)
	for i := range waits {
		waits[i] = make(chan error, 1)
		go func() { waits[i] <- h.Wait(t.Context(), infos[i].ID) }()
	}
	time.Sleep(5 * time.Millisecond)
	f := s.front.at("a")
	f.err = errBroken
	close(f.done)
	if err := <-waits[0]; !errors.Is(err, errBroken) {
		t.Errorf("its frontend failed: %v", err)
	}
	s.close(h)
	if err := <-waits[1]; !errors.Is(err, ErrClosed) {
		t.Errorf("its host is closed: %v", err)
	}
}

func TestDetachBusy(t *testing.T) {
	s := newSite(t)
	h := s.start()
	id := s.attach(h, spec("tree", "a"))[0].ID
	f := s.front.at("a")
	f.busy.Store(true)
	if err := h.Detach(t.Context(), id, false); !errors.Is(err, ErrBusy) || len(h.List()) != 1 || len(s.records()) != 1 {
		t.Errorf("detach of a disk in use: %v", err)
	}
	readFile(t, f.offer)
	if err := h.Detach(t.Context(), id, true); err != nil || len(h.List()) != 0 {
		t.Errorf("forced: %v", err)
	}
}

func TestOneHostAFolder(t *testing.T) {
	s := newSite(t)
	h := s.start()
	second := s.bare()
	if err := second.Recover(t.Context(), &keep.Inherited{}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second host: %v", err)
	}
	if _, err := second.Attach(t.Context(), spec("tree", "a")); !errors.Is(err, ErrClosed) {
		t.Errorf("attach before Recover: %v", err)
	}
	s.close(h)
	s.close(s.start())
}

// TestHandOver passes everything to a second host, lock included, and takes it back
// from a third that failed.
func TestHandOver(t *testing.T) {
	s := newSite(t)
	old := s.start()
	s.attach(old, spec("tree", "a"))
	list, err := old.Release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Attach(t.Context(), spec("tree", "b")); !errors.Is(err, ErrClosed) {
		t.Errorf("attach after Release: %v", err)
	}
	back := &keep.Inherited{}
	for _, d := range list {
		back.Add(d)
	}
	if err := old.Resume(t.Context(), back); err != nil {
		t.Fatal(err)
	}
	if o, n := s.front.last("a"); n != 2 || !o.Again {
		t.Errorf("offered %d times after a hand-over that failed", n)
	}
	s.attach(old, spec("tree", "b"))

	next := s.bare()
	done, err := next.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if list, err = old.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	in := &keep.Inherited{}
	for _, d := range list {
		in.Add(d)
	}
	s.broken.Store(-1) // it has opened what it needs
	if err := next.Recover(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	done()
	if left := in.Close(); len(left) != 0 {
		t.Errorf("nobody took %q", left)
	}
	eventually(t, "the disks to open", func() bool { return states(next)[Ready] == 2 })
	s.close(old) // the lock goes on
	if err := s.bare().Recover(t.Context(), &keep.Inherited{}); !errors.Is(err, ErrRunning) {
		t.Errorf("a host beside the one that took over: %v", err)
	}
}

// TestLeaks attaches and detaches a hundred times; goleak looks for goroutines.
func TestLeaks(t *testing.T) {
	s := newSite(t)
	h := s.start()
	var before int
	for i := range 100 {
		if i == 10 {
			before = openfiles.In(t)
		}
		id := s.attach(h, spec("tree", "a"))[0].ID
		if err := h.Detach(t.Context(), id, false); err != nil {
			t.Fatal(err)
		}
	}
	if after := openfiles.In(t); after > before {
		t.Errorf("%d descriptors are open, %d were", after, before)
	}
}
