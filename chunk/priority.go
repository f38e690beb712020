package chunk

import (
	"context"
	"slices"
	"sync"
)

// A Priority says who waits for a read. Whatever queues reads serves the lower
// number first, and lets none starve.
type Priority uint8

// The priorities there are.
const (
	Demand   Priority = iota // a guest waits
	Prefetch                 // a guest will probably ask soon
	Fill                     // nobody waits
)

// Priorities is how many there are.
const Priorities = 3

// String returns the priority's name.
func (p Priority) String() string {
	switch p {
	case Demand:
		return "demand"
	case Prefetch:
		return "prefetch"
	}
	return "fill"
}

type priorityKey struct{}

// WithPriority returns a context whose reads have that priority. It travels in
// the context so that wrappers need not know of it.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

// PriorityOf returns the priority of reads in ctx: Demand unless told otherwise.
func PriorityOf(ctx context.Context) Priority {
	switch p := ctx.Value(priorityKey{}).(type) {
	case Priority:
		return min(p, Fill)
	case *Urgency:
		return p.Priority()
	}
	return Demand
}

// An Urgency is the priority of a read that others may come to wait for: what
// was begun as a prefetch and is then asked for by a guest is raised, wherever
// it stands in line. Its methods may be called by any number of goroutines.
type Urgency struct {
	mu     sync.Mutex
	p      Priority
	queues []Raiser // that the read waits in
}

// A Raiser is a place in a queue. Raise moves it to where reads of priority p
// wait, if it has a lower one. It must not call the Urgency that it watches.
type Raiser interface{ Raise(p Priority) }

// NewUrgency returns an Urgency of priority p.
func NewUrgency(p Priority) *Urgency { return &Urgency{p: min(p, Fill)} }

// WithUrgency returns a context whose reads have the priority of u.
func WithUrgency(ctx context.Context, u *Urgency) context.Context {
	return context.WithValue(ctx, priorityKey{}, u)
}

// UrgencyOf returns what WithUrgency put into ctx, or nil if the priority of
// reads in ctx never changes.
func UrgencyOf(ctx context.Context) *Urgency {
	u, _ := ctx.Value(priorityKey{}).(*Urgency)
	return u
}

// Priority returns the priority as it is now.
func (u *Urgency) Priority() Priority {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.p
}

// Raise gives the read priority p, and tells the queues that it waits in. It
// does nothing if the priority is that or higher. On nil it does nothing.
func (u *Urgency) Raise(p Priority) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if p >= u.p {
		return
	}
	u.p = p
	for _, q := range u.queues {
		q.Raise(p)
	}
}

// Watch has q told of raises from now on until Unwatch, which returns when none
// is under way. If the priority is higher already than p, which q was given,
// q is told at once.
func (u *Urgency) Watch(q Raiser, p Priority) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.queues = append(u.queues, q)
	if u.p < p {
		q.Raise(u.p)
	}
}

// Unwatch ends a Watch.
func (u *Urgency) Unwatch(q Raiser) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.Index(u.queues, q); i >= 0 {
		u.queues = slices.Delete(u.queues, i, i+1)
	}
}
