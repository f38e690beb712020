package cached

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
)

// A conn is one client.
type conn struct {
	server      *Server
	wire        *wire.Conn
	who         peer
	queue       chan answer // to be sent by sendLater; never full, for Outstanding is its length
	outstanding atomic.Int32
	quit        chan struct{} // closed by end
	ending      sync.Once
	inflows     map[uint64]*inflow // by lease: what the client deposits; the reader's

	// Guarded by Server.mu.
	gone    bool // no more answers, no more leases
	begun   int  // flights in the table that it began
	leases  map[uint64]*flight
	waiters map[*waiter]struct{}
}

// An answer is what a request gets.
type answer struct {
	request uint64
	kind    wire.Type
	payload func(b []byte) []byte // nil: none
	file    *os.File              // nil: none
	release func()                // called when it was sent, or will not be; nil: nothing to do
	queued  time.Time             // by later
}

func newConn(s *Server, socket *net.UnixConn, who peer) *conn {
	return &conn{
		server: s, wire: wire.NewConn(socket, false, sendTime), who: who,
		queue: make(chan answer, Outstanding), quit: make(chan struct{}), inflows: make(map[uint64]*inflow),
		leases: make(map[uint64]*flight), waiters: make(map[*waiter]struct{}),
	}
}

// end has the sender send what is queued and close the socket, which ends the
// reader.
func (c *conn) end() { c.ending.Do(func() { close(c.quit) }) }

// receive is the reader: it handles requests until the client goes or breaks the
// protocol.
func (c *conn) receive() {
	defer c.server.running.Done()
	defer c.wire.EndReading()
	err := c.greet()
	for err == nil {
		err = c.next()
	}
	if !left(err) {
		c.server.logger.Warn("host cache: connection ends", "pid", c.who.pid, "uid", c.who.uid, "err", err)
	}
	c.server.leave(c)
	c.end()
}

// left reports whether err only says that the client has gone, or the connection
// was ended.
func left(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// greet reads the client's first message and says what it may do.
func (c *conn) greet() error {
	if err := c.wire.Socket().SetReadDeadline(time.Now().Add(greetTime)); err != nil {
		return err
	}
	m, err := c.wire.Read()
	if err != nil {
		return err
	}
	if m.Type != wire.Hello {
		return fmt.Errorf("%w: %v before HELLO", wire.ErrMalformed, m.Type)
	}
	g, err := wire.ParseGreeting(m.Payload)
	if err != nil {
		return err
	}
	if g.Version != wire.Version {
		return fmt.Errorf("client speaks version %d of the protocol, want %d", g.Version, wire.Version)
	}
	if err := c.wire.Socket().SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	terms := wire.Terms{Version: wire.Version, Outstanding: Outstanding, WaitMillis: uint32(c.server.wait / time.Millisecond)}
	return c.wire.Write(wire.Welcome, m.Request, terms.Append, nil)
}

// next handles one request. Its error ends the connection.
func (c *conn) next() error {
	m, err := c.wire.Read()
	if err != nil {
		return err
	}
	if c.outstanding.Add(1) > Outstanding {
		return fmt.Errorf("%w: more than %d requests without an answer", wire.ErrMalformed, Outstanding)
	}
	c.server.stats.requests.Add(1)
	switch m.Type {
	case wire.Get:
		return c.get(&m)
	case wire.Fetch:
		return c.fetch(&m)
	case wire.Deposit:
		return c.deposit(&m)
	case wire.Abandon, wire.Renew:
		return c.keep(&m)
	case wire.Damaged:
		return c.damaged(&m)
	case wire.Touch:
		return c.touch(&m)
	case wire.Ping:
		return c.done(m.Request)
	case wire.About:
		return c.reply(answer{request: m.Request, kind: wire.Self, payload: c.server.self.Append})
	case wire.Raise:
		return c.raise(&m)
	case wire.Hello:
		return fmt.Errorf("%w: a second HELLO", wire.ErrMalformed)
	}
	return c.administer(&m)
}

// reply sends an answer at once. It is the reader's.
func (c *conn) reply(a answer) error {
	err := c.wire.Write(a.kind, a.request, a.payload, a.file)
	if a.release != nil {
		a.release()
	}
	c.outstanding.Add(-1)
	return err
}

func (c *conn) done(request uint64) error { return c.reply(answer{request: request, kind: wire.Done}) }

func (c *conn) fail(request uint64, r wire.Reason, text string) error {
	return c.reply(answer{request: request, kind: wire.Fail, payload: wire.Refusal{Reason: r, Text: text}.Append})
}

// later queues an answer. Every request has a place in the queue.
func (c *conn) later(a answer) {
	a.queued = time.Now()
	select {
	case c.queue <- a:
	default: // cannot be: Outstanding bounds it
		if a.release != nil {
			a.release()
		}
		c.end()
	}
}

// errUnread ends the connection of a client that takes answers, but more slowly
// than others may have to wait for what they keep.
var errUnread = fmt.Errorf("the client leaves its answers unread for more than %v", queueTime)

// sendLater is the sender.
func (c *conn) sendLater() {
	defer c.server.running.Done()
	var err error
	send := func(a answer) {
		if err == nil && time.Since(a.queued) > queueTime {
			err = errUnread
			c.server.logger.Warn("host cache: connection ends", "pid", c.who.pid, "uid", c.who.uid, "err", err)
		}
		if err == nil {
			err = c.wire.Write(a.kind, a.request, a.payload, a.file)
		}
		if a.release != nil {
			a.release()
		}
		c.outstanding.Add(-1)
	}
	for err == nil {
		select {
		case a := <-c.queue:
			send(a)
			continue
		case <-c.quit:
		}
		break
	}
	c.server.leave(c) // nothing is queued from now on
	for {
		select {
		case a := <-c.queue:
			send(a)
			continue
		default:
		}
		break
	}
	_ = c.wire.Close()
}

// leave takes a connection out of the server: its waiters wait no more, and its
// leases go to others.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	delete(s.conns, c)
	s.stats.connections.Add(-1)
	for w := range c.waiters {
		s.forget(w)
	}
	for _, f := range c.leases {
		s.revoke(f, "its holder has gone")
	}
}
