package tier

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
)

// A Coalesce does one read for all that want the same bytes of a chunk, or a
// part of what is being read, at the same time.
//
// The read is nobody's: it goes on while anybody waits for it, whoever began
// it, and is cancelled when the last caller leaves. Its context has the values
// of the first caller's and no deadline, and its priority is the highest of all
// that wait (see [chunk.Urgency]). What it ends with, everybody gets.
//
// Nothing is kept: a read that begins after another has ended is sent anew. The
// zero value is ready.
type Coalesce struct {
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	flights map[chunk.ID][]*flight
	stats   CoalesceStats
}

var _ Layer = (*Coalesce)(nil)

// CoalesceStats is what a [Coalesce] has done so far.
type CoalesceStats struct {
	Sent   int64 // reads passed on
	Joined int64 // reads that waited for another
}

// Stats returns the counters at one moment.
func (c *Coalesce) Stats() CoalesceStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Wait returns when no read is under way, cancelled ones included. None may
// begin meanwhile.
func (c *Coalesce) Wait() { c.running.Wait() }

// A flight is one read for many. It is in the table from its start until it
// ends or the last caller leaves, so that nobody joins one that is cancelled.
type flight struct {
	id      chunk.ID
	off     int64
	buf     *buffer // given back by the last one who uses it
	urgency *chunk.Urgency
	cancel  context.CancelFunc
	done    chan struct{} // closed when n and err are set
	n       int
	err     error

	waiting int  // callers, and the flight's own goroutine; guarded by Coalesce.mu
	gone    bool // out of the table; the same
}

// covers reports whether the flight brings n bytes at off.
func (f *flight) covers(off int64, n int) bool {
	return off >= f.off && off-f.off <= int64(len(f.buf.b)-n)
}

// Read implements [Layer].
func (c *Coalesce) Read(ctx context.Context, next Next, id chunk.ID, dst []byte, off int64) (int, error) {
	if len(dst) == 0 || off < 0 || ctx.Err() != nil {
		return next(ctx, id, dst, off)
	}
	p := chunk.PriorityOf(ctx)
	n, err := c.share(ctx, p, next, id, dst, off)
	if p != chunk.Fill && errors.Is(err, ErrOverloaded) {
		// It was refused as a fill, before we joined.
		return c.share(ctx, p, next, id, dst, off)
	}
	return n, err
}

// share joins a flight, or begins one.
func (c *Coalesce) share(ctx context.Context, p chunk.Priority, next Next, id chunk.ID, dst []byte, off int64) (int, error) {
	c.mu.Lock()
	at := slices.IndexFunc(c.flights[id], func(f *flight) bool { return f.covers(off, len(dst)) })
	var f *flight
	if at >= 0 {
		f = c.flights[id][at]
		f.waiting++
		c.stats.Joined++
	} else {
		f = c.begin(ctx, p, next, id, len(dst), off)
	}
	c.mu.Unlock()
	f.urgency.Raise(p)
	u := chunk.UrgencyOf(ctx)
	if u != nil {
		u.Watch(f.urgency, p)
		defer u.Unwatch(f.urgency)
	}
	defer c.leave(f)
	select {
	case <-f.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if f.err != nil {
		return 0, f.err
	}
	skip := int(off - f.off)
	return copy(dst, f.buf.b[min(skip, f.n):f.n]), nil
}

// begin starts a flight with one caller. c.mu is held.
func (c *Coalesce) begin(ctx context.Context, p chunk.Priority, next Next, id chunk.ID, n int, off int64) *flight {
	f := &flight{id: id, off: off, buf: newBuffer(n), urgency: chunk.NewUrgency(p), done: make(chan struct{}), waiting: 2}
	ctx, f.cancel = context.WithCancel(chunk.WithUrgency(context.WithoutCancel(ctx), f.urgency))
	if c.flights == nil {
		c.flights = make(map[chunk.ID][]*flight)
	}
	c.flights[id] = append(c.flights[id], f)
	c.stats.Sent++
	c.running.Go(func() {
		defer f.cancel()
		f.n, f.err = next(ctx, id, f.buf.b, off)
		c.mu.Lock()
		c.drop(f)
		c.mu.Unlock()
		close(f.done)
		c.leave(f)
	})
	return f
}

// leave ends the use of f by a caller, or by its goroutine.
func (c *Coalesce) leave(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f.waiting--; f.waiting {
	case 0:
		f.buf.free()
	case 1: // nobody but its goroutine, if that is not through
		c.drop(f)
		f.cancel()
	}
}

// drop takes f out of the table, if it is there. c.mu is held.
func (c *Coalesce) drop(f *flight) {
	if f.gone {
		return
	}
	f.gone = true
	list := c.flights[f.id]
	if len(list) == 1 {
		delete(c.flights, f.id)
		return
	}
	at := slices.Index(list, f)
	c.flights[f.id] = slices.Delete(list, at, at+1)
}
