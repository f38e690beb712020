package nbd

import "sync"

// A pool is the memory for replies and payloads that all connections share, in bytes. Each
// connection has floorBytes of its own besides, so that those who hold the
// whole pool cannot stop the others.
type pool struct {
	mu      sync.Mutex
	free    int64
	waiters []*poolWaiter // in the order of arrival
}

type poolWaiter struct {
	n     int64
	ready chan struct{}
}

// try takes n bytes if they are free and nobody waits for them.
func (p *pool) try(n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters) > 0 || n > p.free {
		return false
	}
	p.free -= n
	return true
}

// wait takes n bytes once they are free, or returns false when done closes.
// The pool must have that many in all.
func (p *pool) wait(n int64, done <-chan struct{}) bool {
	p.mu.Lock()
	if len(p.waiters) == 0 && n <= p.free {
		p.free -= n
		p.mu.Unlock()
		return true
	}
	w := &poolWaiter{n, make(chan struct{})}
	p.waiters = append(p.waiters, w)
	p.mu.Unlock()
	select {
	case <-w.ready:
		return true
	case <-done:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.waiters {
		if other == w {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			p.grant()
			return false
		}
	}
	p.free += n // granted meanwhile
	p.grant()
	return false
}

func (p *pool) put(n int64) {
	p.mu.Lock()
	p.free += n
	p.grant()
	p.mu.Unlock()
}

// grant serves the waiters that can be, in order. It needs p.mu.
func (p *pool) grant() {
	for len(p.waiters) > 0 && p.waiters[0].n <= p.free {
		w := p.waiters[0]
		p.free -= w.n
		p.waiters = p.waiters[1:]
		close(w.ready)
	}
}

// A charge is what one request owes until its reply is written.
type charge struct {
	floor  int64 // bytes of the connection's own
	shared int64 // bytes of the pool
	slot   bool  // one of the connection's requests: set on a reply's last part
}

// A budget counts what one connection has in flight: requests admitted whose
// replies are not written yet.
type budget struct {
	pool     *pool
	done     <-chan struct{} // closes with the connection
	mu       sync.Mutex
	room     sync.Cond // something was released, or the connection is over
	slots    int       // requests that may still be admitted
	floor    int64     // bytes of the connection's own that are free
	maxFloor int64
	over     bool
}

func (g *budget) init(p *pool, slots int, floor int64, done <-chan struct{}) {
	g.pool, g.slots, g.floor, g.maxFloor, g.done = p, slots, floor, floor, done
	g.room.L = &g.mu
}

// admit takes a request's slot and n bytes, and waits until it can. It returns
// false when the connection is over.
func (g *budget) admit(n int64) (charge, bool) {
	g.mu.Lock()
	for g.slots == 0 && !g.over {
		g.room.Wait()
	}
	if g.over {
		g.mu.Unlock()
		return charge{}, false
	}
	g.slots--
	if n <= g.floor {
		g.floor -= n
		g.mu.Unlock()
		return charge{floor: n, slot: true}, true
	}
	g.mu.Unlock()
	c, ok := g.take(n)
	c.slot = true
	return c, ok
}

// full reports whether admitting n bytes might have to wait.
func (g *budget) full(n int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slots == 0 || n > g.floor
}

// take takes n bytes for a further part of a reply, as admit does.
func (g *budget) take(n int64) (charge, bool) {
	if n > g.maxFloor {
		if !g.pool.wait(n, g.done) {
			return charge{}, false
		}
		return charge{shared: n}, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.over {
		if n <= g.floor {
			g.floor -= n
			return charge{floor: n}, true
		}
		if g.pool.try(n) {
			return charge{shared: n}, true
		}
		g.room.Wait()
	}
	return charge{}, false
}

// release gives back what a number of replies owed.
func (g *budget) release(slots int, floor, shared int64) {
	if shared > 0 {
		g.pool.put(shared)
	}
	g.mu.Lock()
	g.slots += slots
	g.floor += floor
	g.room.Broadcast()
	g.mu.Unlock()
}

// give gives back one charge that no message took.
func (g *budget) give(c charge) {
	slots := 0
	if c.slot {
		slots = 1
	}
	g.release(slots, c.floor, c.shared)
}

// end makes every wait return false from now on.
func (g *budget) end() {
	g.mu.Lock()
	g.over = true
	g.room.Broadcast()
	g.mu.Unlock()
}
