package tier

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/internal/tokenbucket"
)

// Defaults of a Hedge.
const (
	DefaultHedgeShare    = 0.05
	DefaultHedgeBurst    = 10
	DefaultHedgeQuantile = 0.95
	DefaultMinHedge      = time.Millisecond
)

// A Hedge sends a demand read a second time if it takes longer than most reads
// of that size do, takes the answer that comes first and cancels the other. Second
// requests are paid for from a token bucket that each read adds a share of a
// token to: when everything is slow, they add no more than that share to the
// load, and none to speak of if the bucket is empty already.
//
// Each request has a buffer of its own, as the one that loses may still write
// when the read has returned; what is copied costs little against a network.
//
// The fields are set before the first use and not changed; the zero value has
// the defaults.
type Hedge struct {
	Share    float64       // second requests that a read earns; 0: DefaultHedgeShare
	Burst    float64       // second requests that can be saved up; 0: DefaultHedgeBurst
	Quantile float64       // of the latest reads, which are not hedged; 0: DefaultHedgeQuantile
	Min      time.Duration // a read is not hedged earlier; 0: DefaultMinHedge

	seen    [sizeClasses]latencies
	running sync.WaitGroup // requests

	mu     sync.Mutex // guards what follows
	bucket tokenbucket.Bucket
	stats  HedgeStats
}

var _ Layer = (*Hedge)(nil)

// HedgeStats is what a [Hedge] has done so far.
type HedgeStats struct {
	Reads  int64
	Hedged int64 // reads that were sent a second time
	Won    int64 // of them: the second answer came first
	Denied int64 // reads that were late while the bucket was empty
}

// Stats returns the counters at one moment.
func (h *Hedge) Stats() HedgeStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

// Wait returns when no request is under way, those included that lost. No read
// may begin meanwhile.
func (h *Hedge) Wait() { h.running.Wait() }

// Delay returns after which time a read of so many bytes is sent again; false
// while too little is known.
func (h *Hedge) Delay(bytes int) (time.Duration, bool) {
	q, lowest := h.Quantile, h.Min
	if q <= 0 {
		q = DefaultHedgeQuantile
	}
	if lowest <= 0 {
		lowest = DefaultMinHedge
	}
	d, ok := h.seen[sizeClass(bytes)].quantile(q)
	return max(d, lowest), ok
}

// earn counts a read.
func (h *Hedge) earn() {
	share := h.Share
	if share <= 0 {
		share = DefaultHedgeShare
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Reads++
	if h.bucket.Burst = h.Burst; h.Burst <= 0 {
		h.bucket.Burst = DefaultHedgeBurst
	}
	h.bucket.Add(time.Now(), share)
}

// pay takes the price of a second request, if it is there.
func (h *Hedge) pay() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.bucket.Wait(now, 1) > 0 {
		h.stats.Denied++
		return false
	}
	h.bucket.Take(now, 1)
	h.stats.Hedged++
	return true
}

// Read implements [Layer]: both requests go to next. Reads that no guest waits
// for are passed on.
func (h *Hedge) Read(ctx context.Context, next Next, id chunk.ID, dst []byte, off int64) (int, error) {
	if chunk.PriorityOf(ctx) != chunk.Demand {
		return next(ctx, id, dst, off)
	}
	return h.race(ctx, next, nil, id, dst, off)
}

// Race is Read for two places that hold the same: the second request goes to
// second, at once and for nothing if first fails or does not hold the chunk. It
// is ErrNotFound only if both say so.
func (h *Hedge) Race(ctx context.Context, first, second Next, id chunk.ID, dst []byte, off int64) (int, error) {
	return h.race(ctx, first, second, id, dst, off)
}

// An answer is how one request ended.
type answer struct {
	buf    *buffer // to be freed by whoever takes the answer
	n      int
	err    error
	second bool
}

// race sends one request, and another if that is late, to second, or if that is
// nil to first again.
func (h *Hedge) race(ctx context.Context, first, second Next, id chunk.ID, dst []byte, off int64) (int, error) {
	h.earn()
	ctx, cancel := context.WithCancel(ctx) // for those who lose
	defer cancel()
	r := &duel{answers: make(chan answer), left: ctx.Done()}
	begun := time.Now()
	h.send(ctx, r, first, id, len(dst), off, false)
	var late <-chan time.Time
	if after, ok := h.Delay(len(dst)); ok && chunk.PriorityOf(ctx) == chunk.Demand {
		timer := time.NewTimer(after)
		defer timer.Stop()
		late = timer.C
	}
	again, failover := first, second != nil
	if failover {
		again = second
	}
	var failed error
	for sent, waiting := 1, 1; waiting > 0; {
		select {
		case a := <-r.answers:
			waiting--
			if a.err == nil {
				h.won(begun, len(dst), &a)
				copy(dst, a.buf.b[:a.n])
				a.buf.free()
				return a.n, nil
			}
			a.buf.free()
			if failed = worse(failed, a.err); !failover && errors.Is(failed, chunk.ErrNotFound) {
				return 0, failed // an answer
			}
			if failover && sent == 1 {
				h.send(ctx, r, again, id, len(dst), off, true)
				sent, waiting = 2, 1
			}
		case <-late:
			if sent == 1 && h.pay() {
				h.send(ctx, r, again, id, len(dst), off, true)
				sent, waiting = 2, 2
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, failed
}

// A duel is where the requests of one read hand over their answers, until the
// read is left.
type duel struct {
	answers chan answer
	left    <-chan struct{}
}

// send starts a request.
func (h *Hedge) send(ctx context.Context, r *duel, next Next, id chunk.ID, bytes int, off int64, second bool) {
	h.running.Go(func() {
		a := answer{buf: newBuffer(bytes), second: second}
		a.n, a.err = next(ctx, id, a.buf.b, off)
		select {
		case r.answers <- a:
		case <-r.left:
			a.buf.free()
		}
	})
}

// won learns from the answer that was taken. If it was the second, the first
// has taken at least as long.
func (h *Hedge) won(begun time.Time, bytes int, a *answer) {
	h.seen[sizeClass(bytes)].add(time.Since(begun))
	if a.second {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.stats.Won++
	}
}

// worse returns which of two errors is returned: a chunk is not found only if
// nobody failed for another reason.
func worse(a, b error) error {
	if a == nil || errors.Is(a, chunk.ErrNotFound) {
		return b
	}
	return a
}
