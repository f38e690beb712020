package cachedclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
)

// How a connection is made and watched.
const (
	dialTime   = time.Second            // from connecting to being welcome
	dialWait   = 250 * time.Millisecond // that a read waits for a dialler
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second

	pings          = 8       // requests that are kept for asking whether the daemon lives
	maxOutstanding = 1 << 12 // bound of what a daemon may allow
)

// A reply is the answer to a request.
type reply struct {
	kind    wire.Type
	payload []byte
	file    *os.File // the receiver's; nil: none
}

func (r *reply) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// A link is one connection to the daemon.
type link struct {
	client *Client
	wire   *wire.Conn
	terms  wire.Terms
	slots  chan struct{} // one for each call that is not answered
	dead   chan struct{} // closed by fail

	mu    sync.Mutex            // guards what follows
	err   error                 // why it is dead
	last  uint64                // request number
	calls map[uint64]chan reply // not answered; nil: nobody waits for it any more
	heard time.Time             // when the daemon sent something last, or nothing was owed
}

// connected returns the connection, and makes one if it is time to. The error is
// ErrAway.
func (c *Client) connected(ctx context.Context) (*link, error) {
	c.mu.Lock()
	if c.link != nil || c.closed {
		l := c.link
		c.mu.Unlock()
		if l == nil {
			return nil, ErrAway
		}
		return l, nil
	}
	if c.dialing == nil {
		if time.Now().Before(c.after) {
			c.mu.Unlock()
			return nil, ErrAway
		}
		c.dialing = make(chan struct{})
		c.running.Go(c.dial)
	}
	dialing, wait := c.dialing, dialWait
	if c.pause > firstPause { // it does not answer for some time
		wait = 0
	}
	c.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-dialing:
	case <-timer.C:
		return nil, ErrAway
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return nil, ErrAway
	}
	return c.link, nil
}

// dial is the dialler.
func (c *Client) dial() {
	l, err := c.greet()
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.dialing)
	c.dialing = nil
	if err == nil && c.closed {
		l.wire.EndReading()
		_ = l.wire.Close()
		return
	}
	if err != nil {
		c.rest(err)
		return
	}
	c.link, c.pause = l, 0
	c.away.Store(false)
	if c.told {
		c.told = false
		c.logger.Info("host cache answers again", "socket", c.config.Socket)
	}
	c.stats.connects.Add(1)
	c.running.Go(l.receive)
}

// rest puts off the next dialling. mu is held.
func (c *Client) rest(err error) {
	c.pause = min(max(2*c.pause, firstPause), lastPause)
	c.after = time.Now().Add(c.pause)
	c.away.Store(true)
	if !c.told && !c.closed {
		c.told = true
		c.logger.Warn("host cache is away; reading from the store meanwhile", "socket", c.config.Socket, "err", err)
	}
}

// greet connects and says hello.
func (c *Client) greet() (*link, error) {
	ctx, cancel := context.WithTimeout(c.done, dialTime)
	defer cancel()
	socket, err := new(net.Dialer).DialContext(ctx, "unix", c.config.Socket)
	if err != nil {
		return nil, err
	}
	l := &link{
		client: c, wire: wire.NewConn(socket.(*net.UnixConn), true, c.config.Silence),
		calls: make(map[uint64]chan reply), dead: make(chan struct{}),
	}
	stop := context.AfterFunc(c.done, func() { _ = socket.Close() })
	defer stop()
	if l.terms, err = l.hello(); err != nil {
		l.wire.EndReading()
		_ = socket.Close()
		return nil, err
	}
	l.slots = make(chan struct{}, min(l.terms.Outstanding, maxOutstanding)-pings)
	return l, nil
}

func (l *link) hello() (wire.Terms, error) {
	if err := l.wire.Socket().SetReadDeadline(time.Now().Add(dialTime)); err != nil {
		return wire.Terms{}, err
	}
	if err := l.wire.Write(wire.Hello, 0, wire.Greeting{Version: wire.Version}.Append, nil); err != nil {
		return wire.Terms{}, err
	}
	m, err := l.wire.Read()
	if err != nil {
		return wire.Terms{}, err
	}
	defer m.Close()
	if m.Type != wire.Welcome || m.Request != 0 {
		return wire.Terms{}, fmt.Errorf("%w: %v to HELLO", wire.ErrMalformed, m.Type)
	}
	t, err := wire.ParseTerms(m.Payload)
	if err == nil && (t.Version != wire.Version || t.Outstanding <= pings) {
		err = fmt.Errorf("the daemon speaks version %d of the protocol, want %d", t.Version, wire.Version)
	}
	if err == nil {
		err = l.wire.Socket().SetReadDeadline(time.Time{})
	}
	return t, err
}

// receive is the connection's reader. While answers are owed it asks for a sign
// of life when there was none for a quarter of Config.Silence.
func (l *link) receive() {
	defer func() { _ = l.wire.Close() }()
	defer l.wire.EndReading()
	for {
		m, err := l.wire.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = l.listen()
			if err == nil {
				continue
			}
		}
		if err == nil {
			err = l.answer(&m)
		}
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// answer hands a message to who waits for it.
func (l *link) answer(m *wire.Message) error {
	defer m.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = time.Now()
	ch, ok := l.calls[m.Request]
	if !ok {
		if m.Request == 0 || m.Request > l.last {
			return fmt.Errorf("%w: answer to a request that was not made", wire.ErrMalformed)
		}
		return nil // to a ping
	}
	delete(l.calls, m.Request)
	<-l.slots
	r := reply{m.Type, append([]byte(nil), m.Payload...), m.File()}
	if ch != nil {
		ch <- r // has room for it
	} else {
		l.client.forgo(&r)
	}
	return l.watch()
}

// watch sets when the reader looks up. mu is held.
func (l *link) watch() error {
	var at time.Time
	if len(l.calls) > 0 {
		at = time.Now().Add(l.client.config.Silence / 4)
	}
	return l.wire.Socket().SetReadDeadline(at)
}

// listen decides what to do after some silence.
func (l *link) listen() error {
	l.mu.Lock()
	owed, silent := len(l.calls) > 0, time.Since(l.heard)
	l.last++
	n := l.last
	err := l.watch()
	l.mu.Unlock()
	switch {
	case err != nil || !owed:
		return err
	case silent >= l.client.config.Silence:
		return fmt.Errorf("%w: nothing heard for %v", ErrAway, silent.Round(time.Millisecond))
	}
	return l.wire.Write(wire.Ping, n, nil, nil)
}

// call sends a request and returns its answer. The error is ErrAway, or the
// context's.
func (l *link) call(ctx context.Context, t wire.Type, payload func(b []byte) []byte) (reply, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.dead:
		return reply{}, ErrAway
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
	ch := make(chan reply, 1)
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return reply{}, ErrAway
	}
	if len(l.calls) == 0 {
		l.heard = time.Now()
	}
	l.last++
	n := l.last
	l.calls[n] = ch
	err := l.watch()
	l.mu.Unlock()
	if err == nil {
		err = l.wire.Write(t, n, payload, nil)
	}
	if err != nil {
		l.fail(err)
	}
	select {
	case r, ok := <-ch:
		if !ok {
			return reply{}, ErrAway
		}
		return r, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, owed := l.calls[n]; owed {
		l.calls[n] = nil
	} else if r, ok := <-ch; ok { // it came at the same moment
		l.client.forgo(&r)
	}
	return reply{}, ctx.Err()
}

// fail ends the connection. Whoever waits gets ErrAway.
func (l *link) fail(err error) {
	if errors.Is(err, wire.ErrTruncated) {
		l.client.shelf.halve()
	}
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = err
		close(l.dead)
	}
	for n, ch := range l.calls {
		delete(l.calls, n)
		if ch != nil {
			close(ch)
		}
	}
	l.mu.Unlock()
	_ = l.wire.Close()
	if !first {
		return
	}
	c := l.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.link = nil
		c.stats.losses.Add(1)
		if !ended(err) { // stopped, hung or mad: it will not be better at once
			c.rest(err)
		}
	}
}

// ended reports whether err says that the daemon has closed the connection, as
// one does that is started anew.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// call sends a request over the connection that there is.
func (c *Client) call(ctx context.Context, t wire.Type, payload func(b []byte) []byte) (reply, error) {
	l, err := c.connected(ctx)
	if err != nil {
		return reply{}, err
	}
	return l.call(ctx, t, payload)
}

// tell sends a request whose answer has nothing in it, and reports whether it is
// Done.
func (c *Client) tell(ctx context.Context, t wire.Type, payload func(b []byte) []byte) (done bool, err error) {
	a, err := c.call(ctx, t, payload)
	if err != nil {
		return false, err
	}
	a.close() // a daemon that is none may have sent a descriptor
	return a.kind == wire.Done, nil
}
