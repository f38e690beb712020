package tier

import (
	"context"

	"github.com/rivuletfs/rivulet/chunk"
)

type flowKey struct{}

// WithFlow returns a context whose reads belong to the flow of that key: a
// disk, an agent, a tenant. Queues serve flows of one priority in turn, so that
// one which asks for much holds up no other. Reads without one share a flow.
func WithFlow(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, flowKey{}, key)
}

// FlowOf returns the flow of reads in ctx.
func FlowOf(ctx context.Context) string {
	key, _ := ctx.Value(flowKey{}).(string)
	return key
}

// strides say how far a priority's pass moves when one of its reads is served;
// the lowest pass is served next. So while reads of all priorities wait, demand
// gets 12 of 16 places, prefetch 3 and fill 1.
var strides = [chunk.Priorities]uint64{chunk.Demand: 1, chunk.Prefetch: 4, chunk.Fill: 12}

// A waiter is a read in line. It is its goroutine's, but for the fields that
// the Limit's lock guards.
type waiter struct {
	limit *Limit
	ready chan struct{} // of one place: a value is there once granted
	bytes int

	// Guarded by the limit's lock.
	granted    bool
	priority   chunk.Priority
	flow       *flow // nil: not in line
	prev, next *waiter
}

// A flow is the line of one key's reads of one priority, first in, first out.
type flow struct {
	key         string
	first, last *waiter
	prev, next  *flow // in the ring of its priority
}

// A queue keeps reads in line: priorities by stride, their flows in turn.
type queue struct {
	classes [chunk.Priorities]class
	passed  uint64 // pass of the read served last
	length  int
}

// A class is the reads of one priority.
type class struct {
	pass  uint64
	turn  *flow // whose turn it is, in a ring; nil: nothing waits
	flows map[string]*flow
}

// push puts w at the end of its flow.
func (q *queue) push(w *waiter, key string) {
	c := &q.classes[w.priority]
	if c.turn == nil {
		c.pass = max(c.pass, q.passed) // time without work earns nothing
	}
	f := c.flows[key]
	if f == nil {
		if c.flows == nil {
			c.flows = make(map[string]*flow)
		}
		f = &flow{key: key}
		c.flows[key] = f
		c.join(f)
	}
	w.flow, w.prev = f, f.last
	if f.last == nil {
		f.first = w
	} else {
		f.last.next = w
	}
	f.last = w
	q.length++
}

// join puts f into the ring behind all others.
func (c *class) join(f *flow) {
	if c.turn == nil {
		f.prev, f.next, c.turn = f, f, f
		return
	}
	f.prev, f.next = c.turn.prev, c.turn
	f.prev.next, f.next.prev = f, f
}

// remove takes w out of line.
func (q *queue) remove(w *waiter) {
	f := w.flow
	if w.prev == nil {
		f.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		f.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.flow, w.prev, w.next = nil, nil, nil
	q.length--
	if f.first == nil {
		q.classes[w.priority].leave(f)
	}
}

// leave takes the empty flow f out.
func (c *class) leave(f *flow) {
	delete(c.flows, f.key)
	if f.next == f {
		c.turn = nil
		return
	}
	f.prev.next, f.next.prev = f.next, f.prev
	if c.turn == f {
		c.turn = f.next
	}
}

// peek returns the read to serve next among the priorities that may, or nil.
func (q *queue) peek(may func(chunk.Priority) bool) *waiter {
	best := -1
	for p := range q.classes {
		c := &q.classes[p]
		if c.turn == nil {
			continue
		}
		if !may(chunk.Priority(p)) {
			c.pass = max(c.pass, q.passed) // nor does time spent at a bound
			continue
		}
		if best < 0 || c.pass < q.classes[best].pass {
			best = p
		}
	}
	if best < 0 {
		return nil
	}
	return q.classes[best].turn.first
}

// pop takes out w, which peek returned.
func (q *queue) pop(w *waiter) {
	c := &q.classes[w.priority]
	q.passed = c.pass
	c.pass += strides[w.priority]
	c.turn = w.flow.next
	q.remove(w)
}
