// Package tokenbucket is the arithmetic of token buckets, which bound rates of
// requests, bytes and retries. It has no lock and no clock: whoever keeps a
// bucket has a lock of its own and knows the time.
package tokenbucket

import (
	"math"
	"time"
)

// A Bucket fills by PerSecond tokens a second up to Burst, and is full at
// first. The zero value is empty and stays so. Not safe for concurrent use.
type Bucket struct {
	PerSecond float64
	Burst     float64

	begun  bool
	tokens float64   // at last; below 0: taken before they were there
	last   time.Time // monotonic
}

// settle brings tokens up to date. A time before the last one changes nothing.
func (b *Bucket) settle(now time.Time) {
	switch passed := now.Sub(b.last); {
	case !b.begun:
		b.begun, b.tokens = true, b.Burst
	case passed < 0:
		return
	default:
		b.tokens = min(b.Burst, b.tokens+passed.Seconds()*b.PerSecond)
	}
	b.last = now
}

// Add puts n tokens in, as far as there is room.
func (b *Bucket) Add(now time.Time, n float64) {
	b.settle(now)
	b.tokens = min(b.Burst, b.tokens+n)
}

// Take takes n tokens, also if they are not there yet: then the bucket owes
// them to time.
func (b *Bucket) Take(now time.Time, n float64) {
	b.settle(now)
	b.tokens -= n
}

// Forever is what Wait returns if time alone brings no tokens.
const Forever = time.Duration(math.MaxInt64)

// Wait returns how long it takes until n tokens are there if nobody takes any: 0
// if they are, and never less than that takes.
func (b *Bucket) Wait(now time.Time, n float64) time.Duration {
	b.settle(now)
	if b.tokens >= n {
		return 0
	}
	seconds := (n - b.tokens) / b.PerSecond // by zero: infinite
	if seconds >= Forever.Seconds() {
		return Forever
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second)))
}
