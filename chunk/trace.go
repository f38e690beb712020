package chunk

import (
	"context"
	"sync"
	"time"
)

// A Tier is where bytes of a chunk come from. The further one is, the higher its
// number.
type Tier uint8

// The tiers there are.
const (
	Nowhere   Tier = iota // nobody had them
	Memory                // of the process, decoded
	HostCache             // of the machine, L1
	Zone                  // shared by machines, L2
	Origin                // where they were published
)

// Tiers is how many there are, Nowhere included.
const Tiers = 5

// String returns the tier's name: "none", "memory", "cache", "zone" or "origin".
func (t Tier) String() string {
	return [...]string{"none", "memory", "cache", "zone", "origin", "none"}[min(t, Tiers)]
}

// A Step is one thing that a fetch did: it asked a tier for bytes of a chunk. A
// step may lie within another: a host cache that asks the zone.
type Step struct {
	Tier   Tier
	ID     ID
	Offset int64 // of the stored chunk, in bytes
	Bytes  int   // that were asked for
	Begun  time.Time
	Took   time.Duration
	Err    error // nil: the tier had them
}

// MaxSteps bounds the steps that a Trace keeps.
const MaxSteps = 32

// A Trace keeps what a fetch did. It travels in the context, like its priority
// (WithTrace), so that whoever asks a tier adds a step, and wrappers need not know
// of it. Its methods may be called by any number of goroutines, also after the fetch
// has ended, and do nothing on nil. The zero value is ready.
type Trace struct {
	mu      sync.Mutex
	reached Tier
	lost    int
	kept    int
	first   [3]Step // as many as nearly every fetch has
	more    []Step
}

type traceKey struct{}

// WithTrace returns a context whose reads add their steps to t.
func WithTrace(ctx context.Context, t *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// TraceOf returns what WithTrace put into ctx, else nil.
func TraceOf(ctx context.Context) *Trace {
	t, _ := ctx.Value(traceKey{}).(*Trace)
	return t
}

// Add adds a step. Of more than MaxSteps it keeps the first ones.
func (t *Trace) Add(s Step) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.Err == nil {
		t.reached = max(t.reached, s.Tier)
	}
	switch {
	case t.kept < len(t.first):
		t.first[t.kept] = s
		t.kept++
	case t.kept < MaxSteps:
		t.more = append(t.more, s)
		t.kept++
	default:
		t.lost++
	}
}

// Reached returns the furthest tier that had what it was asked for: whoever reads by
// way of a near tier waits for that one. Nowhere, if none had it, or on nil.
func (t *Trace) Reached() Tier {
	if t == nil {
		return Nowhere
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reached
}

// Steps returns the steps in the order in which they ended, the caller's, and how
// many more there were.
func (t *Trace) Steps() (steps []Step, more int) {
	if t == nil {
		return nil, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	steps = append(steps, t.first[:min(t.kept, len(t.first))]...)
	return append(steps, t.more...), t.lost
}

// Each calls fn with each step that Steps returns. fn keeps none, and calls nothing of
// t. It is for who counts, and allocates nothing.
func (t *Trace) Each(fn func(*Step)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.first[:min(t.kept, len(t.first))] {
		fn(&t.first[i])
	}
	for i := range t.more {
		fn(&t.more[i])
	}
}

// Traced returns a reader that adds each read of r to the trace in its context, as a
// step of that tier.
func Traced(r Reader, tier Tier) Reader { return traced{r, tier} }

type traced struct {
	reader Reader
	tier   Tier
}

// ReadChunk implements [Reader].
func (r traced) ReadChunk(ctx context.Context, id ID, dst []byte, off int64) (int, error) {
	t := TraceOf(ctx)
	if t == nil {
		return r.reader.ReadChunk(ctx, id, dst, off)
	}
	begun := time.Now()
	n, err := r.reader.ReadChunk(ctx, id, dst, off)
	t.Add(Step{Tier: r.tier, ID: id, Offset: off, Bytes: len(dst), Begun: begun, Took: time.Since(begun), Err: err})
	return n, err
}
