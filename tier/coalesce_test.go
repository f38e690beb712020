package tier_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/tier"
	"github.com/rivuletfs/rivulet/tier/tiertest"
)

// slowly returns a source of o that takes 100 ms, and counts.
func slowly(o *chunktest.Object) *chunktest.Counting {
	held := tiertest.Holding([]chunktest.Object{*o})
	return &chunktest.Counting{Source: &chunktest.Slow{Source: held, Latency: 100 * time.Millisecond}}
}

func TestCoalesceJoins(t *testing.T) {
	o := chunktest.Random(1, 1000, chunk.FrameSize)
	size := int64(len(o.Bytes))
	type part struct{ off, n int64 }
	for name, c := range map[string]struct {
		first, then part
		requests    int64
	}{
		"same":               {part{0, size}, part{0, size}, 1},
		"inside":             {part{0, size}, part{100, 50}, 1},
		"at the end":         {part{0, size}, part{size - 5, 5}, 1},
		"past the end":       {part{0, size + 100}, part{size + 10, 20}, 1},
		"over the end":       {part{0, size + 100}, part{size - 10, 20}, 1},
		"longer":             {part{0, size}, part{0, size + 1}, 2},
		"before":             {part{100, 50}, part{99, 10}, 2},
		"after":              {part{100, 50}, part{145, 10}, 2},
		"far past the end":   {part{0, size}, part{1<<63 - 1, 10}, 2},
		"nothing":            {part{0, size}, part{0, 0}, 2},
		"other bytes of one": {part{0, 10}, part{10, 10}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				counting := slowly(&o)
				coalesce := &tier.Coalesce{}
				src := tier.Source(counting, coalesce)
				var wg sync.WaitGroup
				for _, p := range []part{c.first, c.then} {
					wg.Go(func() {
						dst := make([]byte, p.n)
						n, err := src.Fetch(t.Context(), o.ID, dst, p.off)
						want := o.Bytes[min(p.off, size):min(max(p.off+p.n, p.off), size)]
						if err != nil || !bytes.Equal(dst[:n], want) {
							t.Errorf("%d bytes at %d: %d, %v, or they differ", p.n, p.off, n, err)
						}
					})
					synctest.Wait()
				}
				wg.Wait()
				if got := counting.Requests.Load(); got != c.requests {
					t.Errorf("%d requests, want %d", got, c.requests)
				}
				coalesce.Wait()
			})
		})
	}
}

// TestCoalesceLeaves has callers leave one after the other: the read goes on as
// long as one is there, and nobody joins one that was given up.
func TestCoalesceLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := chunktest.Random(1, 1000, chunk.FrameSize)
		counting := slowly(&o)
		coalesce := &tier.Coalesce{}
		src := tier.Source(counting, coalesce)
		read := func(patience time.Duration, want error) func() {
			return func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if _, err := src.Fetch(ctx, o.ID, make([]byte, 100), 0); !errors.Is(err, want) {
					t.Errorf("with %v of patience: %v, want %v", patience, err, want)
				}
			}
		}
		var wg sync.WaitGroup
		wg.Go(read(10*time.Millisecond, context.DeadlineExceeded)) // begins it
		synctest.Wait()
		wg.Go(read(time.Second, nil))
		wg.Wait()
		if got := counting.Requests.Load(); got != 1 {
			t.Errorf("%d requests, want 1", got)
		}
		for range 3 {
			wg.Go(read(10*time.Millisecond, context.DeadlineExceeded))
		}
		wg.Wait()
		synctest.Wait()
		if got := counting.InFlight.Load(); got != 0 {
			t.Errorf("%d requests go on that nobody waits for", got)
		}
		read(time.Second, nil)()
		if s := coalesce.Stats(); s.Sent != 3 || s.Joined != 3 {
			t.Errorf("%+v, want 3 sent, 3 joined", s)
		}
	})
}

// TestCoalesceRaises checks that a fill which a guest comes to wait for is served
// as the guest's, through two coalescing layers and a limit: one that the guest
// joins, and one that is raised while it waits.
func TestCoalesceRaises(t *testing.T) {
	t.Run("Joined", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testRaises(t, true) }) })
	t.Run("Raised", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testRaises(t, false) }) })
}

func testRaises(t *testing.T, joined bool) {
	o := chunktest.Random(1, 1000, chunk.FrameSize)
	limit := &tier.Limit{Concurrent: 1}
	src := tier.Source(slowly(&o), &tier.Coalesce{}, &tier.Coalesce{}, limit)
	busy, err := limit.Acquire(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			g, err := limit.Acquire(chunk.WithPriority(t.Context(), chunk.Prefetch), 0)
			if err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			g.Release(0)
		})
	}
	synctest.Wait()
	read := func(p chunk.Priority, u *chunk.Urgency) {
		wg.Go(func() {
			ctx := chunk.WithPriority(t.Context(), p)
			if u != nil {
				ctx = chunk.WithUrgency(t.Context(), u)
			}
			if _, err := src.Fetch(ctx, o.ID, make([]byte, 100), 0); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
	}
	u := chunk.NewUrgency(chunk.Fill)
	read(chunk.Fill, nil)
	read(chunk.Fill, u) // joins
	begun := time.Now()
	if joined {
		read(chunk.Demand, nil)
	} else {
		u.Raise(chunk.Demand)
	}
	read(chunk.Fill, nil) // no lower
	busy.Release(0)
	for limit.Stats().Passed < 2 {
		time.Sleep(time.Millisecond)
	}
	if _, err := src.Fetch(t.Context(), o.ID, make([]byte, 100), 0); err != nil || time.Since(begun) > 200*time.Millisecond {
		t.Errorf("%v after %v; a guest's read waited behind prefetches", err, time.Since(begun))
	}
	wg.Wait()
}

// TestCoalesceRefused has a guest join a fill that is just being refused.
func TestCoalesceRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusing := func(ctx context.Context, _ chunk.ID, dst []byte, _ int64) (int, error) {
			p := chunk.PriorityOf(ctx)
			time.Sleep(time.Millisecond)
			if p == chunk.Fill {
				return 0, tier.ErrOverloaded
			}
			return len(dst), nil
		}
		c := &tier.Coalesce{}
		var wg sync.WaitGroup
		for _, p := range []chunk.Priority{chunk.Fill, chunk.Demand} {
			wg.Go(func() {
				_, err := c.Read(chunk.WithPriority(t.Context(), p), refusing, chunktest.Absent, make([]byte, 1), 0)
				if refused := errors.Is(err, tier.ErrOverloaded); refused != (p == chunk.Fill) {
					t.Errorf("%v: %v", p, err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
	})
}
