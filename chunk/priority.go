package chunk

import "context"

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
	p, _ := ctx.Value(priorityKey{}).(Priority)
	return min(p, Fill)
}
