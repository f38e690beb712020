package start

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
)

// A farCache is a host cache before a far store: what it lacks comes whole, once for all who
// ask, after a delay and a turn on a line of some bandwidth.
type farCache struct {
	m      *blockmap.Map
	delay  time.Duration
	second float64 // bytes in one

	mu      sync.Mutex
	free    time.Time // when the line is
	chunks  map[chunk.ID]chan struct{}
	waiting atomic.Int32 // reads of the disk
}

func (c *farCache) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, _ int64) (int, error) {
	c.mu.Lock()
	there, asked := c.chunks[id]
	if !asked {
		there = make(chan struct{})
		c.chunks[id] = there
	}
	c.mu.Unlock()
	from, begun := chunk.HostCache, time.Now()
	if !asked {
		from = chunk.Origin
		time.Sleep(c.delay)
		c.mu.Lock()
		if now := time.Now(); c.free.Before(now) {
			c.free = now
		}
		c.free = c.free.Add(time.Duration(chunk.Size / 2 / c.second * 1e9))
		arrives := c.free
		c.mu.Unlock()
		time.Sleep(time.Until(arrives))
		close(there)
	}
	<-there
	chunk.TraceOf(ctx).Add(chunk.Step{Tier: from, ID: id, Begun: begun})
	return len(dst), ctx.Err()
}

// read reads the disk's chunks in that order, with something to do after each. A fill, if
// there is one, runs from when so many were waited for.
func (c *farCache) read(t *testing.T, order []int, work time.Duration, f *Fill, after int) time.Duration {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	begun := time.Now()
	for misses, pos := range order {
		if misses == after && f != nil {
			running.Go(func() { _ = f.Run(ctx) }) // until the disk was read
		}
		at := time.Now()
		c.waiting.Add(1)
		if _, err := c.ReadChunk(ctx, c.m.Chunk(pos).ID, nil, 0); err != nil {
			t.Fatal(err)
		}
		c.waiting.Add(-1)
		if f != nil {
			f.Touch(disk.Touch{Chunk: pos, Begun: at, Waited: time.Since(at)})
		}
		time.Sleep(work)
	}
	return time.Since(begun)
}

func (c *farCache) waits() bool { return c.waiting.Load() > 0 }

// subtrees returns the positions of n chunks as a walk comes to them: directory by
// directory, which have some chunks each.
func subtrees(n int) (order []int) {
	rng := rand.New(rand.NewPCG(1, 2))
	var parts [][]int
	for at := 0; at < n; {
		end := min(n, at+1+rng.IntN(60))
		var part []int
		for ; at < end; at++ {
			part = append(part, at)
		}
		parts = append(parts, part)
	}
	for _, i := range rng.Perm(len(parts)) {
		order = append(order, parts[i]...)
	}
	return order
}

// TestFillAhead wants who reads all of a disk that is far to have it hardly later than
// its bytes take, and who reads some of it to take hardly longer than without: which of two fetches comes first
// at one moment is left to the scheduler, and makes it 0.96 to 1.14 ×.
func TestFillAhead(t *testing.T) {
	const (
		n, after = 1000, 32
		delay    = 30 * time.Millisecond
		second   = 25e6
		serially = after * (delay + time.Duration(chunk.Size/2/second*1e9)) // before the fill
	)
	ofBytes := func(time.Duration) time.Duration {
		return serially + time.Duration(n*chunk.Size/2/second*1.15*1e9)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct {
		name  string
		order []int
		most  func(without time.Duration) time.Duration
	}{
		{"walk", subtrees(n), ofBytes},
		{"walk of large directories", rng.Perm(n), ofBytes},
		{"start", rng.Perm(n)[:150], func(without time.Duration) time.Duration { return without + without*3/20 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var took [2]time.Duration
			for i := range took {
				synctest.Test(t, func(t *testing.T) {
					far := &farCache{m: newMap(t, n), delay: delay, second: second, chunks: make(map[chunk.ID]chan struct{})}
					var f *Fill
					if i == 1 {
						f = NewFill(far.m, far, FillOptions{Waits: far.waits})
					}
					took[i] = far.read(t, c.order, 2*time.Millisecond, f, after)
				})
			}
			t.Logf("%v, with a fill %v", took[0], took[1])
			if most := c.most(took[0]); took[1] > most {
				t.Errorf("%v, want at most %v", took[1], most)
			}
		})
	}
}
