package host

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

// ofDisk returns the digests of the disk of an image and of its block map.
func (s *site) ofDisk(name string) (disk string, m origin.Digest) {
	s.t.Helper()
	i, err := generation.NewView(s.origin, generation.Options{}).Open(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return i.Map.DiskDigest().String(), i.Map.Digest()
}

// farHost returns a host without a state folder, whose origin is o, for a bubble of synctest.
func (s *site) farHost(t *testing.T, o origin.Origin) *Host {
	t.Helper()
	cfg := s.config()
	cfg.State, cfg.Logger = "", slog.New(slog.NewTextHandler(t.Output(), nil))
	cfg.Open = func(context.Context, string) (Source, error) {
		return Source{View: generation.NewView(o, generation.Options{})}, nil
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestPullRounds: from the question for an image's disk until it is attached a far origin is asked
// four times one after the other, where the states were read before and nobody has marked the image yet: to
// what its digest leads; whether there is a mark; for the mark; and for the states. All that opens the
// disk, and the profile of its start, come beside that.
func TestPullRounds(t *testing.T) {
	s := newSite(t)
	digest, image := s.ofDisk("tree")
	rec := profile.Recording{Image: image, Touches: []profile.Touch{{Frame: profile.Frame{Chunk: 0}}}}
	if _, err := generation.AddProfile(t.Context(), s.origin, rec.Profile()); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		h := s.farHost(t, lateOrigin{s.origin})
		defer s.close(h)
		if err := h.Reach(t.Context(), "memory"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		begun := time.Now()
		found, err := h.Find(t.Context(), Query{Store: "memory", Image: digest, Soon: &Spec{}})
		if err != nil || found.Digest != image.String() {
			t.Fatalf("found %+v, %v", found, err)
		}
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("it was open after %v, want 3: where it leads, and what unlocks it, which takes two", took)
		}
		infos, err := h.Attach(t.Context(), spec(found.Digest, "a"))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != 4*time.Second {
			t.Errorf("attached after %v, want 4", took)
		}
		synctest.Wait()
		if r := h.List()[0].Start.Replay; r == nil || r.Delay > time.Second {
			t.Errorf("reading ahead: %+v", r)
		}
		if infos[0].Digest != image.String() {
			t.Errorf("attached %+v", infos[0])
		}
	})
}

// TestFindSoonHolds: a disk that was found to be attached is open for a while, and no longer.
func TestFindSoonHolds(t *testing.T) {
	s := newSite(t)
	digest, _ := s.ofDisk("tree")
	open := func(h *Host) int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.disks)
	}
	synctest.Test(t, func(t *testing.T) {
		h := s.farHost(t, s.origin)
		find := func() string {
			t.Helper()
			f, err := h.Find(t.Context(), Query{Store: "memory", Image: digest, Soon: &Spec{}})
			if err != nil {
				t.Fatal(err)
			}
			return f.Digest
		}
		find()
		time.Sleep(soonTime - time.Second)
		if find(); open(h) != 1 {
			t.Errorf("%d disks are open", open(h))
		}
		time.Sleep(soonTime - time.Second)
		if open(h) != 1 {
			t.Error("it was closed before its time")
		}
		time.Sleep(2 * time.Second)
		if open(h) != 0 {
			t.Error("it is open for longer than its time")
		}
		infos, err := h.Attach(t.Context(), spec(find(), "a"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * soonTime)
		if open(h) != 1 {
			t.Error("what is attached was closed")
		}
		if err := h.Detach(t.Context(), infos[0].ID, false); err != nil {
			t.Error(err)
		}
		if open(h) != 0 {
			t.Error("it is open after the last use")
		}
		find()
		s.close(h)
		if open(h) != 0 {
			t.Error("it outlives its host")
		}
	})
}

// TestFindSoonRefuses has digests that lead nowhere, and elsewhere, and what is no digest.
func TestFindSoonRefuses(t *testing.T) {
	s := newSite(t)
	s.publish("other", "two")
	disk, _ := s.ofDisk("tree")
	_, other := s.ofDisk("other")
	h := s.start()
	find := func(image string) error {
		_, err := h.Find(t.Context(), Query{Store: "memory", Image: image, Soon: &Spec{}})
		return err
	}
	if err := find("tree"); !errors.As(err, new(SpecError)) {
		t.Errorf("a name: %v", err)
	}
	if err := find(origin.Sum(nil).String()); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("an unknown digest: %v", err)
	}
	d, _ := catalog.ParseRef(disk)
	if _, err := catalog.Set(t.Context(), s.origin.Generation(1), catalog.DigestKey(d), other); err != nil {
		t.Fatal(err)
	}
	if err := find(disk); !errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), "another digest") {
		t.Errorf("a digest that leads to another disk: %v", err)
	}
	if len(h.disks) != 0 {
		t.Error("a disk is open")
	}
	s.close(h)
}

// TestReach opens several stores, of which one is away.
func TestReach(t *testing.T) {
	s := newSite(t)
	s.broken.Store(1)
	h := s.start()
	if err := h.Reach(t.Context(), "memory"); !errors.Is(err, errBroken) {
		t.Errorf("reached: %v", err)
	}
	if err := h.Reach(t.Context(), "memory", "other"); err != nil || s.opens.Load() != 3 {
		t.Errorf("opened %d times, %v", s.opens.Load(), err)
	}
	if err := h.Reach(t.Context(), make([]string, maxList+1)...); !errors.As(err, new(SpecError)) {
		t.Errorf("too many: %v", err)
	}
	s.close(h)
}

// A closedOrigin does not say which generations there are any more when a mark has been written.
type closedOrigin struct {
	origin.Origin
	marked atomic.Bool
}

func (o *closedOrigin) SwapPointer(ctx context.Context, name string, old, value []byte) error {
	o.marked.Store(true)
	return o.Origin.SwapPointer(ctx, name, old, value)
}

func (o *closedOrigin) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if name == generation.Pointer && o.marked.Load() {
		return nil, errBroken
	}
	return o.Origin.GetPointer(ctx, name)
}

// TestAttachUnsettled: an image whose place cannot be settled is not attached, and the next attempt
// does not share its disk.
func TestAttachUnsettled(t *testing.T) {
	s := newSite(t)
	o := &closedOrigin{Origin: s.origin}
	h := s.farHost(t, o)
	defer s.close(h)
	if _, err := h.Attach(t.Context(), spec("tree", "a")); !errors.Is(err, errBroken) {
		t.Fatalf("attached: %v", err)
	}
	if len(h.List()) != 0 || len(h.disks) != 0 {
		t.Error("something is attached")
	}
	o.marked.Store(false) // the mark is there, so nothing is written
	s.attach(h, spec("tree", "a"))
}
