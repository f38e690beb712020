package tier_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/tier"
	"github.com/rivuletfs/rivulet/tier/tiertest"
)

// A cache is a model of one: objects in memory, with faults before them.
type cache struct {
	faults func(chunk.Source) chunk.Source // nil: none
	mu     sync.Mutex
	held   tiertest.Objects
	fills  []chunk.ID
	takes  time.Duration // to fill
}

func (c *cache) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held.Fetch(ctx, id, dst, off)
}

func (c *cache) fill(id chunk.ID, object []byte) {
	time.Sleep(c.takes)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[id] = bytes.Clone(object)
	c.fills = append(c.fills, id)
}

// tier returns the cache as a tier with those layers.
func (c *cache) tier(layers ...tier.Layer) tier.Cache {
	if c.held == nil {
		c.held = tiertest.Objects{}
	}
	var src chunk.Source = c
	if c.faults != nil {
		src = c.faults(src)
	}
	return tier.Cache{Name: "cache", Reader: tier.Reader(chunk.NewDoor(src), layers...), Fill: c.fill}
}

func TestStack(t *testing.T) {
	list := chunktest.Objects(1)[:4]
	for name, caches := range map[string][]*cache{
		"no cache":  nil,
		"empty":     {{}, {}},
		"failing":   {{faults: func(s chunk.Source) chunk.Source { return &chunktest.Flaky{Source: s, Every: 1} }}},
		"flaky":     {{faults: func(s chunk.Source) chunk.Source { return &chunktest.Flaky{Source: s, Every: 2, Seed: 1} }}, {}},
		"corrupt":   {{faults: func(s chunk.Source) chunk.Source { return &chunktest.Corrupt{Source: s, Every: 2, Seed: 2} }}, {}},
		"truncated": {{faults: func(s chunk.Source) chunk.Source { return &chunktest.Truncated{Source: s, Every: 2, Seed: 3} }}},
	} {
		t.Run(name, func(t *testing.T) {
			var tiers []tier.Cache
			for _, c := range caches {
				tiers = append(tiers, c.tier())
			}
			s := tier.NewStack(chunk.NewDoor(tiertest.Holding(list)), tiers...)
			defer s.Close()
			chunktest.TestReader(t, s, list)
		})
	}
}

// TestStackFills checks who is filled with what, and that the next read is
// served from there.
func TestStackFills(t *testing.T) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	large := chunktest.Random(2, chunk.MaxSize, chunk.MaxFrameSize)
	for name, c := range map[string]struct {
		o      *chunktest.Object
		off, n int
	}{
		"whole":         {&o, 0, len(o.Bytes)},
		"more":          {&o, 0, len(o.Bytes) + 100},
		"part":          {&o, 100_000, 4096},
		"the begin":     {&o, 0, len(o.Bytes) - 1},
		"part of large": {&large, 3 << 20, 4096},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := &cache{}, &cache{}
				s := tier.NewStack(chunk.NewDoor(tiertest.Holding([]chunktest.Object{o, large})), near.tier(), far.tier())
				defer s.Close()
				read := func(want ...int64) {
					t.Helper()
					dst := make([]byte, c.n)
					n, err := s.ReadChunk(t.Context(), c.o.ID, dst, int64(c.off))
					if end := min(c.off+c.n, len(c.o.Bytes)); err != nil || !bytes.Equal(dst[:n], c.o.Bytes[c.off:end]) {
						t.Errorf("%d, %v, or the bytes differ", n, err)
					}
					clear(dst) // what is filled in is no longer this
					synctest.Wait()
					if got := s.Stats().Served; !slices.Equal(got, want) {
						t.Errorf("served by %v, want %v", got, want)
					}
				}
				read(0, 0, 1)
				for _, cache := range []*cache{near, far} {
					if !bytes.Equal(cache.held[c.o.ID], c.o.Bytes) {
						t.Error("a cache was not filled with the object")
					}
				}
				read(1, 0, 1)
				clear(near.held)
				read(1, 1, 1)
				near.held[c.o.ID][c.off+4000] ^= 1 // it was filled again, and rots
				read(1, 2, 1)
				read(2, 2, 1)
				if got := s.Stats().Fills; got != 3 {
					t.Errorf("%d fills, want 3", got)
				}
			})
		})
	}
}

// TestStackFailures has caches fail in every way: the origin serves, and a cache
// that failed is not filled.
func TestStackFailures(t *testing.T) {
	list := chunktest.Objects(1)[:3]
	for name, c := range map[string]struct {
		faults func(chunk.Source) chunk.Source
		layers []tier.Layer
	}{
		"fails": {func(s chunk.Source) chunk.Source { return &chunktest.Flaky{Source: s, Every: 1} }, nil},
		"hangs": {func(s chunk.Source) chunk.Source { return &chunktest.Hung{Source: s, Every: 1} },
			[]tier.Layer{&tier.Breaker{}, &tier.Timeout{Max: 50 * time.Millisecond}}},
		"open": {nil, []tier.Layer{alwaysOpen{}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bad := &cache{faults: c.faults}
				s := tier.NewStack(chunk.NewDoor(tiertest.Holding(list)), bad.tier(c.layers...))
				defer s.Close()
				begun := time.Now()
				for range 100 {
					for _, o := range list {
						dst := make([]byte, len(o.Bytes))
						if n, err := s.ReadChunk(t.Context(), o.ID, dst, 0); err != nil || !bytes.Equal(dst[:n], o.Bytes) {
							t.Fatalf("%d, %v, or the bytes differ", n, err)
						}
					}
				}
				if took := time.Since(begun); took > time.Second {
					t.Errorf("300 reads took %v beside a cache that %s", took, name)
				}
				synctest.Wait()
				if len(bad.fills) != 0 {
					t.Errorf("it was filled %d times", len(bad.fills))
				}
			})
		})
	}
}

type alwaysOpen struct{}

func (alwaysOpen) Read(context.Context, tier.Next, chunk.ID, []byte, int64) (int, error) {
	return 0, tier.ErrOpen
}

// TestStackErrors checks which error it is.
func TestStackErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := &cache{faults: func(s chunk.Source) chunk.Source { return &chunktest.Flaky{Source: s, Every: 1} }}
		s := tier.NewStack(chunk.NewDoor(tiertest.Objects{}), failing.tier())
		defer s.Close()
		_, err := s.ReadChunk(t.Context(), chunktest.Absent, make([]byte, 100), 0)
		if !errors.Is(err, chunk.ErrNotFound) || errors.Is(err, chunktest.ErrInjected) || !strings.Contains(err.Error(), chunktest.ErrInjected.Error()) {
			t.Errorf("absent, and a cache fails: %v; want ErrNotFound that tells of the cache", err)
		}
		hung := &cache{faults: func(s chunk.Source) chunk.Source { return &chunktest.Hung{Source: s, Every: 1} }}
		origin := &chunktest.Counting{Source: tiertest.Objects{}}
		s = tier.NewStack(chunk.NewDoor(origin), hung.tier())
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.ReadChunk(ctx, chunktest.Absent, make([]byte, 100), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's end: %v", err)
		}
		if got := origin.Requests.Load(); got != 0 {
			t.Errorf("the origin was asked %d times for a caller that has gone", got)
		}
	})
}

// TestStackFillsAreBounded has a cache that is slow to fill: reads do not wait,
// what is too much is dropped, and Close waits for the rest.
func TestStackFillsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var list []chunktest.Object
		for i := range uint64(3 * tier.MaxFills) {
			list = append(list, chunktest.Random(i, 100, chunk.FrameSize))
		}
		slow := &cache{takes: time.Minute}
		s := tier.NewStack(chunk.NewDoor(tiertest.Holding(list)), slow.tier())
		begun := time.Now()
		for range 2 { // the second time each fill is under way already, or skipped
			for _, o := range list {
				if _, err := s.ReadChunk(t.Context(), o.ID, make([]byte, len(o.Bytes)), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("reads waited %v for fills", took)
		}
		synctest.Wait() // all have begun
		s.Close()
		if got := s.Stats(); got.Fills != tier.MaxFills || got.Skipped != 4*tier.MaxFills || time.Since(begun) != time.Minute {
			t.Errorf("%+v; want %d fills, the others skipped", got, tier.MaxFills)
		}
		if _, err := s.ReadChunk(t.Context(), list[20].ID, make([]byte, 10), 0); err != nil || s.Stats().Fills != tier.MaxFills {
			t.Errorf("after Close: %v; want it read, and not filled", err)
		}
	})
}
