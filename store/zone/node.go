package zone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/store/zone/internal/wire"
	"github.com/rivuletfs/rivulet/tier"
)

// What a node's requests are bounded by besides [Config].
const (
	// Before a node that failed is tried again, doubled each time. Trying costs
	// little, as a read does not wait for it.
	pause        = 100 * time.Millisecond
	longestPause = time.Second

	queueFactor = 4                // reads that wait for a connection, times Connections
	idleTime    = 30 * time.Second // a connection unused for longer is not used again
)

var (
	errBusy   = errors.New("too many requests wait for the node")
	errClosed = errors.New("zone is closed")
)

// A node is one server, with the connections to it.
//
// A request has a connection for itself and ends by that connection's deadline
// alone. Whoever asked may leave; the answer is read to its end all the same, so
// that the connection can be used again.
type node struct {
	endpoint
	dial    func(ctx context.Context) (net.Conn, error)
	logger  *slog.Logger
	most    int          // connections
	load    atomic.Int32 // reads that run or wait
	turns   tier.Limit   // of requests
	breaker tier.Breaker
	timeout tier.Timeout
	out     atomic.Bool // logged as left out
	nodeCounters

	mu     sync.Mutex
	idle   []*conn            // used last at the end
	open   map[*conn]struct{} // idle or not
	closed bool
}

// A conn is a connection to a node.
type conn struct {
	wire.Conn
	net  net.Conn
	used time.Time // last
}

func newNode(e endpoint, c *Config, secure *tls.Config) *node {
	n := &node{
		endpoint: e, logger: c.Logger, most: c.Connections, open: make(map[*conn]struct{}),
		turns:   tier.Limit{Concurrent: c.Connections},
		breaker: tier.Breaker{Slow: c.Timeout, Pause: pause, MaxPause: longestPause},
		timeout: tier.Timeout{Min: c.MinTimeout, Max: c.Timeout},
	}
	plain := &net.Dialer{KeepAlive: 15 * time.Second}
	n.dial = func(ctx context.Context) (net.Conn, error) { return plain.DialContext(ctx, "tcp", e.name) }
	if e.tls {
		over := &tls.Dialer{NetDialer: plain, Config: secure}
		n.dial = func(ctx context.Context) (net.Conn, error) { return over.DialContext(ctx, "tcp", e.name) }
	}
	return n
}

// get reads the value of key, of size bytes at most or so, into what room
// returns. It waits for its turn until ctx ends; then it takes as long as the
// node's timeout.
func (n *node) get(ctx context.Context, key string, size int, room wire.Room) (value []byte, err error) {
	defer n.load.Add(-1)
	if n.load.Add(1) > int32((1+queueFactor)*n.most) {
		n.busy.Add(1)
		return nil, errBusy
	}
	err = n.request(ctx, size, func(c wire.Conn) error {
		value, err = c.Get(key, room)
		return err
	})
	switch {
	case err == nil:
		n.hits.Add(1)
		n.received.Add(int64(len(value)))
	case errors.Is(err, wire.ErrMissing):
		n.misses.Add(1)
	}
	return value, err
}

// set writes a stripe.
func (n *node) set(ctx context.Context, key string, header, payload []byte) error {
	size := len(header) + len(payload)
	err := n.write(ctx, size, func(c wire.Conn) error { return c.Set(key, header, payload) })
	if err == nil {
		n.sent.Add(int64(size))
	}
	return err
}

// drop removes a stripe.
func (n *node) drop(ctx context.Context, key string) error {
	return n.write(ctx, 0, func(c wire.Conn) error { return c.Delete(key) })
}

// write is request for a server that may refuse: it may be full, and good to read
// from.
func (n *node) write(ctx context.Context, size int, op func(wire.Conn) error) error {
	var refused *wire.RefusedError
	err := n.request(ctx, size, func(c wire.Conn) error {
		err := op(c)
		if errors.As(err, &refused) {
			return nil
		}
		return err
	})
	if err == nil && refused != nil {
		n.errors.Add(1)
		return fmt.Errorf("node %s: %w", n.name, refused)
	}
	return err
}

// request runs op, which moves size bytes or so, when the node has room for it.
// Nobody waits in line for a node that is left out.
func (n *node) request(ctx context.Context, size int, op func(wire.Conn) error) error {
	if !n.breaker.Ready() {
		n.skipped.Add(1)
		return tier.ErrOpen
	}
	turn, err := n.turns.Acquire(ctx, 0)
	if err != nil {
		n.busy.Add(1)
		return errBusy
	}
	defer turn.Release(0)
	pass, err := n.breaker.Allow()
	if err != nil {
		n.skipped.Add(1)
		return err
	}
	n.requests.Add(1)
	begun := time.Now()
	deadline := begun.Add(n.timeout.After(size))
	err = n.run(deadline, op)
	took := time.Since(begun)
	switch {
	case isTimeout(err):
		n.timeouts.Add(1)
		n.timeout.Observe(size, took, true)
	case keeps(err):
		n.answered(took)
		n.timeout.Observe(size, took, false)
	}
	return n.judge(pass, err)
}

// judge tells the breaker how a request went.
func (n *node) judge(pass tier.Pass, err error) error {
	switch {
	case err == nil || errors.Is(err, wire.ErrMissing):
		pass.Done(nil)
		if n.out.CompareAndSwap(true, false) {
			n.logger.Info("zone node is back", "node", n.name)
		}
		return err
	case n.isClosed():
		pass.Done(nil)
		return errClosed
	}
	if !isTimeout(err) {
		n.errors.Add(1)
	}
	// Not err itself: to a breaker, a context's error may be the caller's.
	pass.Done(errors.New("failed"))
	if n.breaker.Stats().State == tier.Open && n.out.CompareAndSwap(false, true) {
		n.logger.Warn("zone node is left out", "node", n.name, "error", err)
	}
	return fmt.Errorf("node %s: %w", n.name, err)
}

// forgeryWeight is how many failures a forged stripe counts for: the answer itself
// has counted as a success, and so does its repair.
const forgeryWeight = 3

// distrust counts a stripe that the node has forged.
func (n *node) distrust() {
	for range forgeryWeight {
		if pass, err := n.breaker.Allow(); err == nil {
			_ = n.judge(pass, errForged)
		}
	}
}

// run runs op on a connection. One that had been used before may have been closed
// by the server since: then op is run again, on a new one.
func (n *node) run(deadline time.Time, op func(wire.Conn) error) error {
	for again := false; ; again = true {
		l, used, err := n.take(deadline, again)
		if err != nil {
			return err
		}
		_ = l.net.SetDeadline(deadline) // fails if it is closed, as op then does
		err = op(l)
		n.give(l, err)
		if !used || again || !gone(err) {
			return err
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error // a context's error is one too
	return errors.As(err, &timeout) && timeout.Timeout()
}

// keeps reports whether a connection is good after err.
func keeps(err error) bool {
	var refused *wire.RefusedError
	return err == nil || errors.Is(err, wire.ErrMissing) || errors.As(err, &refused)
}

// gone reports whether a connection ended instead of an answer.
func gone(err error) bool {
	return !keeps(err) && !isTimeout(err) && !errors.Is(err, wire.ErrProtocol) && !errors.Is(err, wire.ErrLength)
}

// take returns a connection, and whether it had been used before; with fresh, one
// that had not.
func (n *node) take(deadline time.Time, fresh bool) (l *conn, used bool, err error) {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil, false, errClosed
	}
	if last := len(n.idle) - 1; last >= 0 {
		if !fresh && time.Since(n.idle[last].used) < idleTime {
			l = n.idle[last]
			n.idle = n.idle[:last]
			n.mu.Unlock()
			return l, true, nil
		}
		for _, l := range n.idle { // the others are older, or as dead
			delete(n.open, l)
			_ = l.net.Close()
		}
		n.idle = n.idle[:0]
	}
	n.mu.Unlock()
	l, err = n.connect(deadline)
	return l, false, err
}

// connect makes a connection and logs in.
func (n *node) connect(deadline time.Time) (*conn, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	c, err := n.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &conn{net: c}
	n.mu.Lock()
	n.open[l] = struct{}{}
	closed := n.closed
	n.mu.Unlock()
	if closed {
		_ = c.Close()
		return nil, errClosed
	}
	_ = c.SetDeadline(deadline)
	if l.Conn, err = n.endpoint.open(c, n.login); err != nil {
		n.give(l, err)
		return nil, err
	}
	return l, nil
}

// give takes a connection back after a command that ended with err.
func (n *node) give(l *conn, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.Conn != nil && keeps(err) && !n.closed {
		l.used = time.Now()
		n.idle = append(n.idle, l) // no more than there are turns
		return
	}
	delete(n.open, l)
	_ = l.net.Close()
}

func (n *node) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// close ends all requests.
func (n *node) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for l := range n.open {
		_ = l.net.Close()
	}
	clear(n.open)
	n.idle = nil
}
