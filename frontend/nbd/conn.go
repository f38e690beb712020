package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/frontend/internal/lead"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

const (
	inBytes     = 8 << 10   // read from the socket at once: some 290 requests
	inlineBytes = 512 << 10 // larger reads are never served by the leader itself
)

// A conn is a connection in the transmission phase.
//
// Its workers are a crew (package lead), whose leader alone reads requests from the
// socket; large ones, and those that wait for the medium, it always hands the lead
// over for. Replies to requests that arrived together leave together.
//
//	lead     in, long
//	replies  out (own lock), budget (own lock)
type conn struct {
	srv        *Server
	exp        *export
	ctx        context.Context // ends with the connection
	cancel     context.CancelFunc
	stream     stream
	size       int64
	structured bool
	contexts   []metaContext

	in     []byte // the leader's: bytes inFrom to inTo are read, not parsed
	inFrom int
	inTo   int
	long   *longWrite // whose payload comes next, or nil; the leader's

	crew *lead.Crew

	drain atomic.Bool // answer ESHUTDOWN and end
	hand  bool        // the last leader's: it ended because of a hand-over

	budget budget
	out    outbox
}

func newConn(ctx context.Context, s *Server, st stream, h *handshake) *conn {
	c := &conn{
		srv: s, exp: h.export, size: h.export.size,
		structured: h.structured, contexts: h.contexts,
		stream: st,
		in:     make([]byte, inBytes),
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.budget.init(&s.pool, s.maxRequests(), floorBytes, c.ctx.Done())
	c.out = outbox{stream: c.stream, budget: &c.budget, failed: c.writeFailed}
	c.crew = lead.New(s.maxRequests(), func() func() {
		w := newWorker(c)
		return func() { c.leadOn(w) }
	})
	return c
}

// run serves the connection until it ends.
func (c *conn) run() {
	defer c.cancel()
	c.crew.Run()
	c.out.flush(0)
}

// leadOn reads and serves requests until the lead has gone to someone else or
// the connection is over.
func (c *conn) leadOn(w *worker) {
	c.out.flush(0) // the last leader may have been too slow to
	for {
		t, ok := c.next()
		if !ok {
			c.crew.Over()
			return
		}
		cost := c.cost(t)
		if c.budget.full(cost) {
			c.out.flush(0)
		}
		charge, ok := c.budget.admit(cost)
		if ok && t.Command == wire.CmdWrite && t.errno == 0 {
			// Behind the admission: what finds no room stays in the socket.
			if ok = c.receive(&t); !ok {
				c.budget.give(charge)
			}
		}
		if !ok {
			c.crew.Over()
			return
		}
		if c.crew.HandOver(cost > inlineBytes || t.Command == wire.CmdCache || t.flushes(c.exp)) {
			w.serve(t, charge)
			c.out.flush(0)
			return
		}
		turn := c.crew.Begin()
		w.serve(t, charge)
		if !c.crew.End(turn) {
			c.out.flush(0)
			return
		}
		c.out.flush(flushBytes)
	}
}

// cost returns the bytes of memory that t's payload takes, or its reply, or the
// first part of that.
func (c *conn) cost(t task) int64 {
	switch {
	case t.errno != 0:
		return 0
	case t.Command == wire.CmdBlockStatus:
		return statusBytes(t.Request, len(c.contexts))
	case t.Command != wire.CmdRead && t.Command != wire.CmdWrite:
		return 0
	case c.structured && t.Flags&wire.CmdFlagDF == 0:
		return min(int64(t.Length), pieceBytes)
	}
	return int64(t.Length)
}

// next returns the next request, with the error that it deserves before the
// device is asked, and without its payload. Before it waits for the client it
// has all replies written. It returns false at the end of the connection.
func (c *conn) next() (task, bool) {
	if c.long != nil {
		return c.piece(), true
	}
	if c.srv.handing.Load() && c.stream.handable() {
		c.hand = true // what has been read and not parsed goes along
		return task{}, false
	}
	if !c.fill(wire.RequestSize, true) {
		return task{}, false
	}
	r, err := wire.ParseRequest(c.in[c.inFrom : c.inFrom+wire.RequestSize])
	c.inFrom += wire.RequestSize
	if err != nil {
		c.srv.log.Warn("nbd: client sent no request", "export", c.exp.Name, "err", err)
		return task{}, false
	}
	if r.Command == wire.CmdDisc {
		return task{}, false
	}
	c.srv.stats.requests.Add(1)
	errno := r.Check(c.size, c.exp.writer != nil)
	if r.Command == wire.CmdBlockStatus && len(c.contexts) == 0 {
		errno = wire.EINVAL
	}
	if r.Flags&wire.CmdFlagDF != 0 && !c.structured && errno == 0 {
		errno = wire.EINVAL
	}
	if c.drain.Load() {
		errno = wire.ESHUTDOWN
	}
	switch {
	case r.Command != wire.CmdWrite:
	case errno != 0:
		return task{Request: r, errno: errno}, c.discard(r.Length)
	default:
		return c.split(r), true
	}
	return task{Request: r, errno: errno}, true
}

// fill reads until n bytes can be parsed. Between requests a hand-over ends it.
func (c *conn) fill(n int, between bool) bool {
	if c.inTo-c.inFrom >= n {
		return true
	}
	copy(c.in, c.in[c.inFrom:c.inTo])
	c.inFrom, c.inTo = 0, c.inTo-c.inFrom
	for c.inTo < n {
		c.out.flush(0)
		m, err := c.stream.read(c.in[c.inTo:], between)
		c.inTo += m
		if err != nil && c.inTo < n {
			if c.hand = errors.Is(err, errHandOff); !c.hand {
				c.readFailed(err)
			}
			return false
		}
	}
	return true
}

// discard skips the n bytes of a write that will be refused.
func (c *conn) discard(n uint32) bool {
	if n > wire.MaxBlock {
		c.srv.log.Warn("nbd: client sends too large a write", "export", c.exp.Name, "bytes", n)
		return false
	}
	for left := int(n); left > 0; {
		if c.inFrom == c.inTo && !c.fill(1, false) {
			return false
		}
		skip := min(left, c.inTo-c.inFrom)
		c.inFrom += skip
		left -= skip
	}
	return true
}

// abort ends the connection at once; run returns when the device lets go.
func (c *conn) abort() {
	c.crew.Over()
	c.cancel()
	c.budget.end()
	c.stream.abort()
}

// shutDown ends the connection once the requests that have arrived are
// answered.
func (c *conn) shutDown() {
	c.drain.Store(true)
	c.stream.stopReading()
}

func (c *conn) readFailed(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || c.drain.Load() {
		return
	}
	c.srv.log.Info("nbd: connection lost", "export", c.exp.Name, "err", err)
}

func (c *conn) writeFailed(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.srv.log.Warn("nbd: client does not take its replies", "export", c.exp.Name)
	}
	c.abort()
}
