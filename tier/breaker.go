package tier

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// Defaults of a Breaker.
const (
	DefaultFailures = 5
	DefaultSlow     = time.Second
	DefaultPause    = time.Second
	DefaultMaxPause = 30 * time.Second
)

// A State is what a [Breaker] does with reads.
type State int

// The states of a breaker.
const (
	Closed   State = iota // lets them through
	Open                  // fails them at once
	HalfOpen              // lets one through, to see
)

// String returns the state's name.
func (s State) String() string {
	return [...]string{Closed: "closed", Open: "open", HalfOpen: "half-open"}[s]
}

// A Breaker keeps reads from a node that does not answer, so that a dead node
// costs nothing but the reads that find it dead. It opens when of the last 32
// reads Failures or more failed and these were at least a half. After a pause
// one read is let through; if it succeeds all are, else the pause doubles.
//
// A failure is a read that failed, timed out, or was ended by its context after
// Slow or longer: a hedge or a group of nodes that needs no more answers cancels
// whoever is late, and a node that is always cancelled is dead all the same.
// One cancelled earlier says nothing. chunk.ErrNotFound and damage
// ([chunk.CorruptError]) are answers: the breaker judges whether asking a node
// is worth the wait, and both say something of one chunk only, which is
// repaired by itself. Were they failures, one rotten chunk that many want would
// close a node that has all others.
//
// The fields are set before the first use and not changed; the zero value has
// the defaults.
type Breaker struct {
	Failures int           // of the last 32 reads; 0: DefaultFailures, at most 32
	Slow     time.Duration // 0: DefaultSlow
	Pause    time.Duration // the first one, and up to a quarter more; 0: DefaultPause
	MaxPause time.Duration // 0: DefaultMaxPause

	mu      sync.Mutex // guards what follows
	state   State
	life    uint64 // counts changes of state; reads of an earlier one count no more
	probing bool
	last    uint32        // 1: a failure; the latest read is bit 0
	count   int           // bits of last that stand for a read
	pause   time.Duration // the latest
	until   time.Time     // when it ends
	stats   BreakerStats
}

var _ Layer = (*Breaker)(nil)

// BreakerStats is what a [Breaker] has done so far.
type BreakerStats struct {
	State    State
	Opened   int64 // times it opened after it had been closed
	Rejected int64 // reads failed at once, but for those at the gate
}

// Stats returns the counters at one moment.
func (b *Breaker) Stats() BreakerStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.State = b.now()
	return s
}

// now returns the state, seen that pauses end. b.mu is held.
func (b *Breaker) now() State {
	if b.state == Open && !time.Now().Before(b.until) {
		return HalfOpen
	}
	return b.state
}

// A Pass is a read that a Breaker let through.
type Pass struct {
	b     *Breaker
	life  uint64
	begun time.Time
}

// Ready reports whether Allow would let a read through now. It counts nothing.
func (b *Breaker) Ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now() != Open && !b.probing
}

// Gate returns a Layer that fails reads at once while b is not ready. It stands
// before the [Limit] that b stands behind: no read waits in line for a node that
// is known not to answer, and b decides again on those that stand there.
func (b *Breaker) Gate() Layer { return gate{b} }

type gate struct{ b *Breaker }

// Read implements [Layer].
func (g gate) Read(ctx context.Context, next Next, id chunk.ID, dst []byte, off int64) (int, error) {
	if !g.b.Ready() {
		return 0, g.b.refuse(id)
	}
	return next(ctx, id, dst, off)
}

// refuse returns the error of a read that is not let through.
func (b *Breaker) refuse(id chunk.ID) error { return fmt.Errorf("read chunk %v: %w", id, ErrOpen) }

// Allow lets a read through or returns ErrOpen (wrapped). Whoever gets a Pass
// calls Done.
func (b *Breaker) Allow() (Pass, error) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Open && !now.Before(b.until) {
		b.become(HalfOpen)
	}
	if b.state == Open || b.state == HalfOpen && b.probing {
		b.stats.Rejected++
		return Pass{}, ErrOpen
	}
	b.probing = b.state == HalfOpen
	return Pass{b, b.life, now}, nil
}

// become changes the state. b.mu is held.
func (b *Breaker) become(s State) {
	b.state, b.probing = s, false
	b.life++
	b.last, b.count = 0, 0
}

// verdict is what the end of a read says of the node.
type verdict int

const (
	nothing verdict = iota
	good
	bad
)

func (p Pass) judge(err error) verdict {
	switch Classify(err) {
	case OK, Missed, Damaged:
		return good
	case Overloaded:
		return nothing // nobody was asked
	case Cancelled, TimedOut:
		if errors.Is(err, ErrTimeout) {
			return bad
		}
		slow := p.b.Slow
		if slow <= 0 {
			slow = DefaultSlow
		}
		if time.Since(p.begun) < slow {
			return nothing
		}
	}
	return bad
}

// Done tells how the read ended. It is called once.
func (p Pass) Done(err error) {
	b, v := p.b, p.judge(err)
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.life != b.life {
		return // begun before the state was this
	}
	switch {
	case b.state == HalfOpen && v == good:
		b.pause = 0
		b.become(Closed)
	case b.state == HalfOpen && v == bad:
		b.open()
	case b.state == HalfOpen:
		b.probing = false // somebody else's turn
	case v != nothing:
		b.count = min(b.count+1, 32)
		b.last <<= 1
		if v == bad {
			b.last |= 1
		}
		if failed := bits.OnesCount32(b.last); failed >= b.failures() && 2*failed >= b.count {
			b.stats.Opened++
			b.open()
		}
	}
}

func (b *Breaker) failures() int {
	if b.Failures <= 0 {
		return DefaultFailures
	}
	return min(b.Failures, 32)
}

// open opens the breaker for a pause, twice the last one. b.mu is held.
func (b *Breaker) open() {
	first, most := b.Pause, b.MaxPause
	if first <= 0 {
		first = DefaultPause
	}
	if most <= 0 {
		most = DefaultMaxPause
	}
	b.pause = min(max(first, 2*b.pause), most)
	b.until = time.Now().Add(b.pause + rand.N(b.pause/4+1)) // not all hosts at once
	b.become(Open)
}

// Read implements [Layer].
func (b *Breaker) Read(ctx context.Context, next Next, id chunk.ID, dst []byte, off int64) (n int, err error) {
	pass, err := b.Allow()
	if err != nil { // ErrOpen
		return 0, b.refuse(id)
	}
	n, err = next(ctx, id, dst, off)
	pass.Done(err)
	return n, err
}
