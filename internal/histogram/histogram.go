// Package histogram counts durations in buckets that double. Counting takes an atomic
// addition or two, no lock and no memory, so it can stand where a read passes.
package histogram

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// Buckets is how many there are.
	Buckets = 24
	// least is where bucket 0 ends.
	least = 16 * time.Microsecond
)

// Bound returns the duration that bucket i ends before: 16 µs for the first, then
// twice that of the one before, 67 s for the last but one. The last has no end.
func Bound(i int) time.Duration { return least << i }

// A Histogram counts durations. The zero value is empty. Its methods may be called by
// any number of goroutines.
type Histogram struct {
	counts [Buckets]atomic.Int64
	sum    atomic.Int64 // nanoseconds
}

// Add counts d as n durations.
func (h *Histogram) Add(d time.Duration, n int64) {
	d = max(0, d)
	h.counts[min(bits.Len64(uint64(d/least)), Buckets-1)].Add(n)
	h.sum.Add(int64(d) * n)
}

// Counts returns what was counted, number by number while others may rise.
func (h *Histogram) Counts() Counts {
	var c Counts
	for i := range c.Buckets {
		c.Buckets[i] = h.counts[i].Load()
	}
	c.Sum = time.Duration(h.sum.Load())
	return c
}

// Counts are durations counted by Bound: those of a bucket are in no other.
type Counts struct {
	Buckets [Buckets]int64 `json:"buckets"`
	Sum     time.Duration  `json:"sum_ns"` // of all
}

// Total returns how many durations were counted.
func (c Counts) Total() (n int64) {
	for _, b := range c.Buckets {
		n += b
	}
	return n
}
