package chunktest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// ErrInjected is the error of a [Flaky] source.
var ErrInjected = errors.New("injected fault")

// dice picks requests: one in every on average, by a seed and the request's
// number; every 1 picks all, 0 none.
type dice struct{ requests atomic.Uint64 }

// roll returns a number that depends on seed and the request's number, and
// whether the request is picked.
func (d *dice) roll(seed uint64, every int) (uint64, bool) {
	x := seed ^ d.requests.Add(1)*0x9e3779b97f4a7c15
	x ^= x >> 30 // splitmix64
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return x >> 16, every > 0 && x%uint64(every) == 0
}

// show prints a source: by itself if it can, else by its type.
func show(s chunk.Source) string {
	if p, ok := s.(fmt.Stringer); ok {
		return p.String()
	}
	return fmt.Sprintf("%T", s)
}

// Flaky fails requests with ErrInjected (wrapped): one in Every on average.
type Flaky struct {
	Source chunk.Source
	Every  int
	Seed   uint64

	dice dice
}

// Fetch implements [chunk.Source].
func (f *Flaky) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if _, hit := f.dice.roll(f.Seed, f.Every); hit {
		return 0, fmt.Errorf("fetch chunk %v: %w", id, ErrInjected)
	}
	return f.Source.Fetch(ctx, id, dst, off)
}

func (f *Flaky) String() string {
	return fmt.Sprintf("flaky(1 in %d, seed %d, %s)", f.Every, f.Seed, show(f.Source))
}

// Slow delays requests as a network does: each by Latency, and its bytes by
// the link that all share. Any number of requests wait at once.
type Slow struct {
	Source    chunk.Source
	Latency   time.Duration
	Bandwidth int64 // bytes per second; 0: unlimited

	mu   sync.Mutex
	free time.Time // when the link has sent all that was asked for
}

// Fetch implements [chunk.Source].
func (s *Slow) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	arrival := time.Now().Add(s.Latency)
	n, err := s.Source.Fetch(ctx, id, dst, off)
	if err == nil && s.Bandwidth > 0 {
		arrival = s.send(arrival, n)
	}
	timer := time.NewTimer(time.Until(arrival))
	defer timer.Stop()
	select {
	case <-timer.C:
		return n, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// send returns when the link, which is asked at time at, has sent n bytes.
func (s *Slow) send(at time.Time, n int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free.Before(at) {
		s.free = at
	}
	s.free = s.free.Add(time.Duration(float64(n) / float64(s.Bandwidth) * float64(time.Second)))
	return s.free
}

func (s *Slow) String() string {
	if s.Bandwidth > 0 {
		return fmt.Sprintf("slow(%v, %d B/s, %s)", s.Latency, s.Bandwidth, show(s.Source))
	}
	return fmt.Sprintf("slow(%v, %s)", s.Latency, show(s.Source))
}

// Corrupt flips one bit of answers: of one in Every on average.
type Corrupt struct {
	Source chunk.Source
	Every  int
	Seed   uint64

	dice dice
}

// Fetch implements [chunk.Source].
func (c *Corrupt) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	r, hit := c.dice.roll(c.Seed, c.Every)
	n, err := c.Source.Fetch(ctx, id, dst, off)
	if err == nil && hit && n > 0 {
		bit := r % uint64(8*n)
		dst[bit/8] ^= 1 << (bit % 8)
	}
	return n, err
}

func (c *Corrupt) String() string {
	return fmt.Sprintf("corrupt(1 in %d, seed %d, %s)", c.Every, c.Seed, show(c.Source))
}

// Truncated cuts answers short, by one byte at least: one in Every on average.
type Truncated struct {
	Source chunk.Source
	Every  int
	Seed   uint64

	dice dice
}

// Fetch implements [chunk.Source].
func (c *Truncated) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	r, hit := c.dice.roll(c.Seed, c.Every)
	n, err := c.Source.Fetch(ctx, id, dst, off)
	if err == nil && hit && n > 0 {
		n = int(r % uint64(n))
	}
	return n, err
}

func (c *Truncated) String() string {
	return fmt.Sprintf("truncated(1 in %d, seed %d, %s)", c.Every, c.Seed, show(c.Source))
}

// Hung never answers requests, one in Every on average: they end with their
// context.
type Hung struct {
	Source chunk.Source
	Every  int
	Seed   uint64

	dice dice
}

// Fetch implements [chunk.Source].
func (h *Hung) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if _, hit := h.dice.roll(h.Seed, h.Every); hit {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return h.Source.Fetch(ctx, id, dst, off)
}

func (h *Hung) String() string {
	return fmt.Sprintf("hung(1 in %d, seed %d, %s)", h.Every, h.Seed, show(h.Source))
}

// Counting counts what is asked of a source. The counters may be read, and set
// to zero, at any time.
type Counting struct {
	Source chunk.Source

	Requests    atomic.Int64
	Bytes       atomic.Int64 // returned
	InFlight    atomic.Int64
	MaxInFlight atomic.Int64
}

// Fetch implements [chunk.Source].
func (c *Counting) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	c.Requests.Add(1)
	now := c.InFlight.Add(1)
	defer c.InFlight.Add(-1)
	for most := c.MaxInFlight.Load(); now > most && !c.MaxInFlight.CompareAndSwap(most, now); {
		most = c.MaxInFlight.Load()
	}
	n, err := c.Source.Fetch(ctx, id, dst, off)
	c.Bytes.Add(int64(n))
	return n, err
}

func (c *Counting) String() string { return fmt.Sprintf("counting(%s)", show(c.Source)) }
