// Package retry tries a request again when that may help, without adding to the
// trouble of a server that is in trouble already.
//
// Two things bound it. A [Policy] bounds one operation: how often it is tried,
// and the pauses between, which grow and are jittered so that many clients do
// not come back at once. A [Budget] bounds all operations of a store together:
// each request earns a share of a retry, and time earns a few more. A retry
// that is not earned yet waits until it is; so when everything fails, the
// server sees few retries a second however many operations there are.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/internal/tokenbucket"
)

// A Failure is an error after which the same request may succeed. [Policy.Do]
// returns other errors at once.
type Failure struct {
	Err   error
	After time.Duration // the server asked to wait so long; 0: it did not
	Free  bool          // no fault of the server's (an idle connection was gone): costs nothing of the budget
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// Again returns err as a [Failure].
func Again(err error) error { return &Failure{Err: err} }

// A Budget is what all operations of a store may retry. The zero value has no
// retries in it and earns none. Any number of calls may run at once.
type Budget struct {
	Share     float64 // of a retry that a request earns
	PerSecond float64 // retries that time earns
	Burst     float64 // retries that can be saved up; also what there is at first

	mu     sync.Mutex
	bucket tokenbucket.Bucket // below 0: retries that are waiting for theirs
}

// filled returns the budget's bucket. b.mu is held.
func (b *Budget) filled() *tokenbucket.Bucket {
	b.bucket.PerSecond, b.bucket.Burst = b.PerSecond, b.Burst
	return &b.bucket
}

// earn adds the share of one request.
func (b *Budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.filled().Add(time.Now(), b.Share)
}

// reserve takes one retry and returns how long to wait for it. It takes none
// and returns false if that is longer than most.
func (b *Budget) reserve(most time.Duration) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	wait = b.filled().Wait(now, 1)
	if wait > most || wait == tokenbucket.Forever {
		return 0, false
	}
	b.bucket.Take(now, 1)
	return wait, true
}

// A Policy says how one operation is tried again. It is never changed once used.
type Policy struct {
	Budget   *Budget
	Attempts int           // at most, the first one included
	First    time.Duration // the pause before the second attempt, half of it random; doubled each time
	Longest  time.Duration // pause, also if a server asks for a longer one
}

// Do calls op until it returns nil or an error that is no [Failure], attempts
// or budget are spent, or ctx ends. It returns the last error; if ctx has ended, together with
// that one's.
func (p *Policy) Do(ctx context.Context, op func(context.Context) error) error {
	var f *Failure
	for n := 1; ; n++ {
		p.Budget.earn()
		err := op(ctx)
		last := f
		if f = nil; !errors.As(err, &f) {
			if ended := ctx.Err(); last != nil && ended != nil && errors.Is(err, ended) {
				err = fmt.Errorf("%w: %w", err, last.Err) // why it took so long
			}
			return err
		}
		if n >= p.Attempts || !p.pause(ctx, n, f) {
			if ended := ctx.Err(); ended != nil && !errors.Is(f.Err, ended) {
				return fmt.Errorf("%w: %w", ended, f.Err)
			}
			if n > 1 {
				return fmt.Errorf("%w (tried %d times)", f.Err, n)
			}
			return f.Err
		}
	}
}

// pause waits before attempt n+1. It is false if there should be none.
func (p *Policy) pause(ctx context.Context, n int, f *Failure) bool {
	wait := p.First << min(n-1, 30)
	wait = min(wait, p.Longest)
	wait = wait/2 + rand.N(wait/2+1)
	wait = max(wait, min(f.After, p.Longest))
	left := p.Longest
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	if f.Free && n <= 2 {
		wait = 0
	} else {
		earned, ok := p.Budget.reserve(left)
		if !ok {
			return false
		}
		wait = max(wait, earned)
	}
	if wait > left {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
