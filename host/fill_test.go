package host

import (
	"errors"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

// TestFill wants all of a disk to be in the cache when its start is over, not before; and
// the next process to fill it without waiting for a start.
func TestFill(t *testing.T) {
	s := newSite(t)
	cache := &warmCache{chunks: make(map[chunk.ID]map[int64][]byte)}
	s.cache = cache
	h := s.start()
	sp := spec("tree", "a")
	sp.Fill = &Fill{}
	i := s.attach(h, sp)[0]
	if i.Fill == nil || i.Fill.State != FillWaits || i.Fill.Done != 0 || i.Fill.Chunks == 0 {
		t.Fatalf("before the start is over: %+v", i.Fill)
	}
	if err := h.PauseFill(i.ID, true); err != nil {
		t.Error(err)
	}
	if err := h.Mark(i.ID); err != nil {
		t.Error(err)
	}
	if f := h.List()[0].Fill; f.State != FillPaused || f.Done != 0 {
		t.Errorf("paused: %+v", f)
	}
	if err := h.PauseFill(i.ID, false); err != nil {
		t.Error(err)
	}
	done := func() bool { f := h.List()[0].Fill; return f != nil && f.State == FillDone && f.Done == f.Chunks }
	eventually(t, "filled", done)
	cache.mu.Lock()
	chunks := len(cache.chunks)
	clear(cache.chunks)
	cache.mu.Unlock()
	if chunks != i.Fill.Chunks {
		t.Errorf("%d chunks in the cache, of %d", chunks, i.Fill.Chunks)
	}
	s.close(h)
	h = s.start()
	eventually(t, "filled again", done)
	s.close(h)
}

// TestFillWhileItStarts wants a fill to begin before the start is over when a quarter of
// the disk was read.
func TestFillWhileItStarts(t *testing.T) {
	s := newSite(t)
	s.cache = &warmCache{chunks: make(map[chunk.ID]map[int64][]byte)}
	h := s.start()
	sp := spec("tree", "a")
	sp.Fill, sp.Profile = &Fill{Rate: 1 << 30}, ProfileOff
	s.attach(h, sp)
	o, _ := s.front.last("a")
	if _, err := o.Device.ReadAt(make([]byte, o.Device.Size()), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "filled", func() bool { return h.List()[0].Fill.State == FillDone })
	if h.List()[0].Start.Over {
		t.Error("the start is over")
	}
	s.close(h)
	if _, err := s.profile(""); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("recorded, or %v", err)
	}
}

// TestFillRefused wants a mistake to be called one.
func TestFillRefused(t *testing.T) {
	s := newSite(t)
	h := s.start()
	for what, f := range map[string]*Fill{"without a cache": {}, "negative": {Rate: -1}} {
		sp := spec("tree", "a")
		sp.Fill = f
		if _, err := h.Attach(t.Context(), sp); !errors.As(err, new(SpecError)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	i := s.attach(h, spec("tree", "a"))[0]
	if err := h.PauseFill(i.ID, true); !errors.As(err, new(SpecError)) {
		t.Errorf("pause of a disk that is not filled: %v", err)
	}
	if err := h.PauseFill("nosuch", true); !errors.Is(err, ErrNotFound) {
		t.Errorf("pause of nothing: %v", err)
	}
	s.close(h)
}
