package tier

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// Defaults of a Timeout.
const (
	DefaultMinTimeout = 100 * time.Millisecond
	DefaultMaxTimeout = 15 * time.Second

	timeoutQuantile = 0.99
	timeoutFactor   = 3
)

// A Timeout ends reads that take much longer than reads of that size use to:
// three times the 99th percentile of the latest ones, within bounds. A read
// that it ends counts as one that took twice as long, so when everything gets
// slower it follows, up to Max.
//
// The fields are set before the first use and not changed; the zero value has
// the defaults.
type Timeout struct {
	Min time.Duration // 0: DefaultMinTimeout
	Max time.Duration // also while nothing is known; 0: DefaultMaxTimeout

	seen  [sizeClasses]latencies
	ended atomic.Int64
}

var _ Layer = (*Timeout)(nil)

// After returns how long a read of so many bytes may take now.
func (t *Timeout) After(bytes int) time.Duration {
	lowest, most := t.Min, t.Max
	if lowest <= 0 {
		lowest = DefaultMinTimeout
	}
	if most <= 0 {
		most = DefaultMaxTimeout
	}
	usual, ok := t.seen[sizeClass(bytes)].quantile(timeoutQuantile)
	if !ok {
		return most
	}
	return min(most, max(lowest, timeoutFactor*usual))
}

// Observe tells of a read of so many bytes that succeeded after d, or that
// timed out after d. Failures are not told: a refused connection is fast, and
// says nothing of how long an answer takes.
func (t *Timeout) Observe(bytes int, d time.Duration, timedOut bool) {
	if timedOut {
		t.ended.Add(1)
		d *= 2
	}
	t.seen[sizeClass(bytes)].add(d)
}

// Ended returns how many reads timed out.
func (t *Timeout) Ended() int64 { return t.ended.Load() }

// Read implements [Layer].
func (t *Timeout) Read(ctx context.Context, next Next, id chunk.ID, dst []byte, off int64) (int, error) {
	most, begun := t.After(len(dst)), time.Now()
	bounded, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	n, err := next(bounded, id, dst, off)
	switch {
	case err == nil:
		t.Observe(len(dst), time.Since(begun), false)
	case bounded.Err() != nil && ctx.Err() == nil:
		t.Observe(len(dst), most, true)
		// The text of err is kept, but not that it is a context's error: the
		// caller's context has not ended.
		return 0, fmt.Errorf("read chunk %v: %w after %v: %v", id, ErrTimeout, most, err)
	}
	return n, err
}
