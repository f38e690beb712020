package host

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/host/keep"
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

// TestFillOfAWalk wants a fill to begin when reads wait for chunk after chunk of one part of a
// disk, long before the start is over or has read a quarter of that; and not because as many
// were waited for here and there.
func TestFillOfAWalk(t *testing.T) {
	s := newSite(t)
	content := make([]byte, 60*chunk.Size/1000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails
	s.publish("large", string(content))
	s.cache = &warmCache{chunks: make(map[chunk.ID]map[int64][]byte)}
	c := s.config()
	open := c.Open
	c.Open = func(ctx context.Context, url string) (Source, error) {
		src, err := open(ctx, url)
		src.Bound = func(src chunk.Source, _ string) chunk.Source {
			return &chunktest.Slow{Source: src, Latency: missTime}
		}
		return src, err
	}
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Recover(t.Context(), &keep.Inherited{}); err != nil {
		t.Fatal(err)
	}
	sp := spec("large", "a")
	sp.Fill = &Fill{Optional: true}
	i := s.attach(h, sp)[0]
	o, _ := s.front.last("a")
	m := h.attached[i.ID].dev.disk.Load().Map()
	read := func(from, to, step int) {
		t.Helper()
		for pos := from; pos < to; pos += step {
			if _, err := o.Device.ReadAt(make([]byte, 4096), int64(m.Chunk(pos).Index)*chunk.Size); err != nil {
				t.Fatal(err)
			}
		}
	}
	read(walkRegion, m.Len(), walkRegion)
	read(0, walkShare-1, 1)
	read(0, walkShare-1, 1) // out of memory
	if f := h.List()[0].Fill; f.State != FillWaits || f.Done != 0 {
		t.Errorf("after misses here and there: %+v", f)
	}
	read(walkShare-1, walkMisses+8, 1)
	eventually(t, "begun", func() bool { return h.List()[0].Fill.State != FillWaits })
	if i := h.List()[0]; i.Start.Over || i.Reads.Touched*fillShare >= int64(m.Len())*chunk.Size/chunk.FrameSize {
		t.Errorf("the start is over, or has read much: %+v", i.Start)
	}
	eventually(t, "filled", func() bool { return h.List()[0].Fill.State == FillDone })
	s.close(h)
}

// TestMisses wants a walk to be told by chunks of one part of a disk, and not by frames, nor by
// what was at hand, nor by chunks here and there.
func TestMisses(t *testing.T) {
	var m misses
	for i := range 2 * walkMisses {
		if m.touch(disk.Touch{Chunk: i, Waited: missTime - 1}) || m.touch(disk.Touch{Chunk: 7, Frame: i, Waited: missTime}) {
			t.Fatalf("a walk, after %d frames of one chunk", i)
		}
	}
	for i := range 4 * walkMisses { // half of them of one file
		at := 1000 + i
		if i%2 == 0 {
			at *= walkRegion
		}
		if m.touch(disk.Touch{Chunk: at, Waited: missTime}) {
			t.Fatalf("a walk, after %d chunks here and there", i)
		}
	}
	for i := 0; !m.touch(disk.Touch{Chunk: 7 * i % walkRegion, Waited: missTime}); i++ {
		if i > walkMisses {
			t.Fatalf("none, after %d chunks of one part", i)
		}
	}
}

// TestFillOptional wants a fill that may be left out to be, where there is no cache.
func TestFillOptional(t *testing.T) {
	s := newSite(t)
	h := s.start()
	sp := spec("tree", "a")
	sp.Fill = &Fill{Optional: true}
	if i := s.attach(h, sp)[0]; i.Fill != nil {
		t.Errorf("%+v", i.Fill)
	}
	s.close(h)
	h = s.start() // which brings it back
	eventually(t, "attached", func() bool { l := h.List(); return len(l) == 1 && l[0].State == Ready && l[0].Fill == nil })
	s.close(h)
}
