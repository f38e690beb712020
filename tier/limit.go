package tier

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/internal/tokenbucket"
)

// A Bucket bounds a rate: in any time of s seconds no more than Burst +
// s × PerSecond pass. The zero value bounds nothing.
type Bucket struct {
	PerSecond float64
	Burst     float64 // at least 1; 0: what a tenth of a second brings
}

// Shares of Limit.Concurrent: so many places may be taken by reads that no
// guest waits for, so that one which comes finds a place soon even if they hang.
const (
	backgroundShare = 2 // prefetch and fill together: 1 of so many, at least 1
	fillShare       = 4 // fill: 1 of so many, at least 1
)

// DefaultQueue is the length of a Limit's queue from which on fills are refused.
const DefaultQueue = 1024

// A Limit bounds how many reads are under way behind it and how many begin in
// a second. What must wait waits in line: demand before prefetch before fill, of
// all that wait 12, 3 and 1 of 16, so none starves; within a priority the flows
// ([WithFlow]) in turn; within a flow first come, first served.
//
// The queue pushes back: a caller waits, for as long as its context lets it.
// Only fills are refused, with ErrOverloaded, when the queue is long. A read
// that was queued as a prefetch and is raised ([chunk.Urgency]) moves to the
// demand's line.
//
// The fields are set before the first use and not changed. The zero value
// bounds nothing. It can be shared by sources that lead to the same place.
type Limit struct {
	Concurrent int    // reads at once; 0: no bound
	Requests   Bucket // reads that begin
	Bytes      Bucket // bytes read; those asked for count until it is known how many came, and one read may overdraw it
	Queue      int    // reads that wait, from which on fills are refused; 0: DefaultQueue

	waiters sync.Pool // of *waiter

	mu              sync.Mutex // guards what follows, and waiters in line
	begun           bool
	held            [chunk.Priorities]int // reads under way
	queue           queue
	requests, bytes tokenbucket.Bucket
	timer           *time.Timer // runs wake when the tokens are there that the next read lacks
	armed           bool
	stats           LimitStats
}

var _ Layer = (*Limit)(nil)

// LimitStats is what a [Limit] has done so far, and what it does now.
type LimitStats struct {
	Passed    int64 // reads let through, at once or later
	Waited    int64 // of them: not at once
	Abandoned int64 // reads whose context ended while they waited
	Refused   int64 // fills refused
	InFlight  int   // reads under way
	Waiting   int   // reads in line
}

// Stats returns the counters at one moment.
func (l *Limit) Stats() LimitStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.InFlight, s.Waiting = l.total(), l.queue.length
	return s
}

// A Grant is the right to do one read.
type Grant struct {
	limit    *Limit
	priority chunk.Priority
	bytes    int
}

// Read implements [Layer].
func (l *Limit) Read(ctx context.Context, next Next, id chunk.ID, dst []byte, off int64) (n int, err error) {
	g, err := l.Acquire(ctx, len(dst))
	if err != nil {
		return 0, fmt.Errorf("read chunk %v: %w", id, err)
	}
	n, err = next(ctx, id, dst, off)
	g.Release(n)
	return n, err
}

// Acquire waits until a read of at most bytes bytes, of the priority and flow
// in ctx, may begin. The error is the context's, or ErrOverloaded.
func (l *Limit) Acquire(ctx context.Context, bytes int) (Grant, error) {
	if err := ctx.Err(); err != nil {
		return Grant{}, err
	}
	p := chunk.PriorityOf(ctx)
	l.mu.Lock()
	if l.pass(p, bytes) {
		l.mu.Unlock()
		return Grant{l, p, bytes}, nil
	}
	if p == chunk.Fill && l.long() {
		waiting := l.queue.length
		l.stats.Refused++
		l.mu.Unlock()
		return Grant{}, fmt.Errorf("%w: %d reads wait", ErrOverloaded, waiting)
	}
	w, _ := l.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{limit: l, ready: make(chan struct{}, 1)}
	}
	w.bytes, w.priority, w.granted = bytes, p, false
	l.queue.push(w, FlowOf(ctx))
	l.dispatch()
	l.mu.Unlock()
	return l.await(ctx, w, p)
}

// TryAcquire is Acquire for who does not wait: it is false where a read of that
// priority would have to.
func (l *Limit) TryAcquire(p chunk.Priority, bytes int) (Grant, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.pass(p, bytes) {
		return Grant{}, false
	}
	return Grant{l, p, bytes}, true
}

// pass lets a read through if it need not wait. mu is held.
func (l *Limit) pass(p chunk.Priority, bytes int) bool {
	l.begin()
	now := l.clock()
	if l.queue.length > 0 || !l.room(p) || l.tokens(now) > 0 {
		return false
	}
	l.take(now, p, bytes)
	return true
}

// await waits until w, queued with priority p, is granted or ctx ends, and
// recycles it.
func (l *Limit) await(ctx context.Context, w *waiter, p chunk.Priority) (Grant, error) {
	u := chunk.UrgencyOf(ctx)
	if u != nil {
		u.Watch(w, p)
	}
	var err error
	select {
	case <-w.ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if u != nil {
		u.Unwatch(w)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g := Grant{l, w.priority, w.bytes}
	switch {
	case err == nil:
		l.stats.Waited++
		l.waiters.Put(w)
		return g, nil
	case w.granted: // at the same moment; it goes to somebody else
		<-w.ready
		l.stats.Passed--
		l.requests.Add(time.Now(), 1)
		l.giveBack(&g, 0)
	default:
		l.queue.remove(w)
	}
	l.stats.Abandoned++
	l.dispatch()
	l.waiters.Put(w)
	return Grant{}, err
}

// Raise implements [chunk.Raiser].
func (w *waiter) Raise(p chunk.Priority) {
	l := w.limit
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.flow == nil || p >= w.priority {
		return
	}
	key := w.flow.key
	l.queue.remove(w)
	w.priority = p
	l.queue.push(w, key)
	l.dispatch()
}

// Release ends the read, which brought n bytes. It is called once; on the zero
// Grant it does nothing.
func (g Grant) Release(n int) {
	l := g.limit
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.giveBack(&g, n)
	l.dispatch()
}

// begin fills the buckets. As all that follows, it wants mu held.
func (l *Limit) begin() {
	if l.begun {
		return
	}
	l.begun = true
	l.requests, l.bytes = l.Requests.bucket(), l.Bytes.bucket()
}

// long reports whether the queue has no place for fills.
func (l *Limit) long() bool {
	if l.Queue <= 0 {
		return l.queue.length >= DefaultQueue
	}
	return l.queue.length >= l.Queue
}

func (b Bucket) bucket() tokenbucket.Bucket {
	if b.Burst <= 0 {
		b.Burst = b.PerSecond / 10
	}
	return tokenbucket.Bucket{PerSecond: b.PerSecond, Burst: max(1, b.Burst)}
}

func (l *Limit) total() int {
	return l.held[chunk.Demand] + l.held[chunk.Prefetch] + l.held[chunk.Fill]
}

// room reports whether there is a place for a read of priority p.
func (l *Limit) room(p chunk.Priority) bool {
	if l.Concurrent <= 0 {
		return true
	}
	if l.total() >= l.Concurrent {
		return false
	}
	background := l.held[chunk.Prefetch] + l.held[chunk.Fill]
	switch p {
	case chunk.Demand:
		return true
	case chunk.Fill:
		if l.held[chunk.Fill] >= max(1, l.Concurrent/fillShare) {
			return false
		}
	}
	return background < max(1, l.Concurrent/backgroundShare)
}

// clock returns the time, if a bucket needs it.
func (l *Limit) clock() time.Time {
	if l.Requests.PerSecond <= 0 && l.Bytes.PerSecond <= 0 {
		return time.Time{}
	}
	return time.Now()
}

// tokens returns how long the next read must wait for its tokens. One request
// is paid for before it begins; of bytes a read may overdraw the bucket, so
// that one larger than the burst passes too.
func (l *Limit) tokens(now time.Time) (wait time.Duration) {
	if l.Requests.PerSecond > 0 {
		wait = l.requests.Wait(now, 1)
	}
	if l.Bytes.PerSecond > 0 {
		wait = max(wait, l.bytes.Wait(now, 1))
	}
	return wait
}

// take lets a read through.
func (l *Limit) take(now time.Time, p chunk.Priority, bytes int) {
	l.held[p]++
	l.stats.Passed++
	if l.Requests.PerSecond > 0 {
		l.requests.Take(now, 1)
	}
	if l.Bytes.PerSecond > 0 {
		l.bytes.Take(now, float64(bytes))
	}
}

// giveBack ends a read that brought n bytes.
func (l *Limit) giveBack(g *Grant, n int) {
	l.held[g.priority]--
	if unused := g.bytes - n; l.Bytes.PerSecond > 0 && unused > 0 {
		l.bytes.Add(time.Now(), float64(unused))
	}
}

// dispatch lets reads in line through as far as they may, and sets the timer if
// the next one lacks nothing but tokens.
func (l *Limit) dispatch() {
	for l.queue.length > 0 {
		w := l.queue.peek(l.room)
		if w == nil {
			break // whoever gives a place back comes here again
		}
		now := l.clock()
		if wait := l.tokens(now); wait > 0 {
			l.arm(wait)
			return
		}
		l.queue.pop(w)
		l.take(now, w.priority, w.bytes)
		w.granted = true
		w.ready <- struct{}{}
	}
	if l.armed {
		l.timer.Stop()
		l.armed = false
	}
}

// arm has wake called after wait.
func (l *Limit) arm(wait time.Duration) {
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.wake)
	} else {
		l.timer.Reset(wait)
	}
	l.armed = true
}

// wake is what the timer runs.
func (l *Limit) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	l.dispatch()
}
