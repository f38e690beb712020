// Package lead has the workers of one source of requests, a connection or a ring,
// take turns in reading from it.
//
// The leader alone takes requests from the source. It either hands the lead to
// another worker and then serves the request it has taken, or, when the device has
// been fast lately, serves it itself and goes on. A watch takes the lead away from
// a leader whose request turns out to be slow. So no request is ever passed from
// one goroutine to another; at a fast device nobody is woken but by the source, and
// at a slow one as many requests run as there are workers.
package lead

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxIdle  = 4   // workers that wait for the lead
	patience = 256 // requests handed over after a slow one

	// watchTick is how often a busy crew is looked at: a request that the leader
	// serves itself holds up the others for at most two ticks.
	watchTick = time.Millisecond
)

// A Crew is the workers of one source.
//
// role counts turns, and bit 0 is set during one: whoever swaps it, the leader at
// the end of its turn or the watch, has the lead. vacant, over, idle and workers
// are mu's.
type Crew struct {
	max   int
	enter func() func()

	role  atomic.Uint64
	slow  atomic.Int32 // requests to hand over before the leader serves again
	timer *time.Timer  // ticks only while the leader serves requests itself
	armed atomic.Bool
	seen  uint64 // role at the last tick; the timer's

	mu      sync.Mutex
	lead    sync.Cond // the lead is vacant, or all is over
	vacant  bool
	over    bool
	idle    int
	workers int
	wg      sync.WaitGroup
	spawn   func() // c.work, made once
}

// New returns a crew of at most max workers. enter is called by each new worker, in
// its goroutine, and returns what it does when it has the lead: take requests and
// serve them until the lead has gone to another, by HandOver or by End, or there
// will be no more, which it says by Over.
func New(max int, enter func() func()) *Crew {
	c := &Crew{max: max, enter: enter}
	c.lead.L = &c.mu
	c.spawn = c.work
	c.timer = time.AfterFunc(time.Hour, c.tick)
	c.timer.Stop()
	return c
}

// Run has the crew work, and returns when all have ended. It is called once.
func (c *Crew) Run() {
	c.vacant, c.workers = true, 1
	c.wg.Add(1)
	c.work()
	c.wg.Wait()
	c.timer.Stop()
}

// Over lets every worker end once it has served what it serves. The source must
// let the leader go by itself.
func (c *Crew) Over() {
	c.mu.Lock()
	c.over = true
	c.lead.Broadcast()
	c.mu.Unlock()
}

// HandOver gives the lead away if requests have been slow lately, or if this one
// must not be waited for. The leader then serves the request and returns.
func (c *Crew) HandOver(must bool) bool {
	slow := c.slow.Load() > 0
	if slow {
		c.slow.Add(-1)
	}
	if slow || must {
		c.pass()
	}
	return slow || must
}

// Begin starts a turn: the leader serves a request itself.
func (c *Crew) Begin() (turn uint64) {
	turn = c.role.Load() | 1
	c.role.Store(turn)
	if !c.armed.Load() && c.armed.CompareAndSwap(false, true) {
		c.timer.Reset(watchTick)
	}
	return turn
}

// End ends a turn, and reports whether the caller still has the lead.
func (c *Crew) End(turn uint64) bool { return c.role.CompareAndSwap(turn, turn+1) }

// work is the life of a worker.
func (c *Crew) work() {
	defer c.wg.Done()
	leadOn := c.enter()
	for c.take() {
		leadOn()
	}
}

// take waits for the lead. It returns false when the worker should end.
func (c *Crew) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.vacant && !c.over && c.idle < maxIdle {
		c.idle++
		c.lead.Wait()
		c.idle--
	}
	if !c.vacant || c.over {
		c.workers--
		return false
	}
	c.vacant = false
	return true
}

// pass gives the lead to another worker, or, when as many are busy as may be, to
// the first that will be free.
func (c *Crew) pass() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.vacant = true
	switch {
	case c.over:
	case c.idle > 0:
		c.lead.Signal()
	case c.workers < c.max:
		c.workers++
		c.wg.Add(1)
		go c.spawn()
	}
}

func (c *Crew) tick() {
	role := c.role.Load()
	same := role == c.seen
	c.seen = role
	if same && role&1 != 0 && c.role.CompareAndSwap(role, role+1) {
		c.slow.Store(patience)
		c.pass()
	}
	if same {
		// Nothing moved. A turn that begins before this store saw the watch
		// armed, so look once more after it.
		c.armed.Store(false)
		if c.role.Load()&1 == 0 || !c.armed.CompareAndSwap(false, true) {
			return
		}
	}
	c.timer.Reset(watchTick)
}
