package nbd

import (
	"sync/atomic"
	"time"
)

// watchTick is how often a busy connection is looked at: a request that the
// leader serves itself holds up the others for at most two ticks.
const watchTick = time.Millisecond

// A watch takes the lead of a connection away from a leader that serves a
// request for too long. It ticks only while the leader serves requests itself,
// so an idle connection costs nothing.
//
// role counts the turns, and bit 0 is set during one: whoever swaps it, the
// leader at the end of its turn or the watch, has the lead.
type watch struct {
	c     *conn
	timer *time.Timer
	armed atomic.Bool
	seen  uint64 // role at the last tick; the timer's
}

func (w *watch) init(c *conn) {
	w.c = c
	w.timer = time.AfterFunc(time.Hour, w.tick)
	w.timer.Stop()
}

// begin starts a turn.
func (w *watch) begin() uint64 {
	turn := w.c.role.Load() | 1
	w.c.role.Store(turn)
	if !w.armed.Load() && w.armed.CompareAndSwap(false, true) {
		w.timer.Reset(watchTick)
	}
	return turn
}

// end ends a turn, and reports whether the caller still has the lead.
func (w *watch) end(turn uint64) bool {
	return w.c.role.CompareAndSwap(turn, turn+1)
}

func (w *watch) tick() {
	role := w.c.role.Load()
	same := role == w.seen
	w.seen = role
	if same && role&1 != 0 && w.c.role.CompareAndSwap(role, role+1) {
		w.c.slow.Store(patience)
		w.c.passLead()
	}
	if same {
		// Nothing moved. A turn that begins before this store saw the watch
		// armed, so look once more after it.
		w.armed.Store(false)
		if w.c.role.Load()&1 == 0 || !w.armed.CompareAndSwap(false, true) {
			return
		}
	}
	w.timer.Reset(watchTick)
}

func (w *watch) stop() { w.timer.Stop() }
