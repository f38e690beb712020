package faultproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// linkSegment and linkWindow bound what a Link holds of each direction of a
// connection: linkWindow segments of linkSegment bytes.
const (
	linkSegment = 64 << 10
	linkWindow  = 128
)

// A Link forwards TCP connections as a network would. Listen makes one.
type Link struct {
	target   string
	latency  time.Duration
	listener net.Listener
	up, down pipe

	mu     sync.Mutex
	conns  map[*net.TCPConn]struct{}
	closed bool
	wg     sync.WaitGroup // of all goroutines
}

// A pipe is one direction of the link, which all connections share.
type pipe struct {
	bandwidth int64 // bytes per second; 0: unlimited

	mu   sync.Mutex
	free time.Time // when it has sent all that it was given
}

// arrival returns when n bytes that are sent now have arrived but for latency.
func (p *pipe) arrival(n int) time.Time {
	now := time.Now()
	if p.bandwidth == 0 {
		return now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.bandwidth) * float64(time.Second)))
	return p.free
}

// NewLink forwards the connections that it takes at a free port of the loopback
// interface to target, HOST:PORT. Latency is that of a round trip, which making
// a connection takes too; bandwidth is in bytes per second for each direction,
// 0 for any.
func NewLink(target string, latency time.Duration, bandwidth int64) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{target: target, latency: latency, listener: listener, conns: make(map[*net.TCPConn]struct{})}
	l.up.bandwidth, l.down.bandwidth = bandwidth, bandwidth
	l.wg.Go(l.accept)
	return l, nil
}

// Addr returns the link's HOST:PORT.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Close cuts all connections and waits for the end of what serves them.
func (l *Link) Close() error {
	l.mu.Lock()
	l.closed = true
	for c := range l.conns {
		_ = c.Close()
	}
	l.mu.Unlock()
	err := l.listener.Close()
	l.wg.Wait()
	return err
}

func (l *Link) accept() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.forward(c.(*net.TCPConn)) })
	}
}

// own has Close close c, and reports whether it has not done so already.
func (l *Link) own(c *net.TCPConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = c.Close()
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *Link) disown(c *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	_ = c.Close()
}

func (l *Link) forward(client *net.TCPConn) {
	if !l.own(client) {
		return
	}
	defer l.disown(client)
	c, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	server := c.(*net.TCPConn)
	if !l.own(server) {
		return
	}
	defer l.disown(server)
	var both sync.WaitGroup
	both.Go(func() { l.pump(server, client, &l.up, l.latency) })
	both.Go(func() { l.pump(client, server, &l.down, 0) })
	both.Wait()
}

// A segment is bytes on the way.
type segment struct {
	bytes []byte
	due   time.Time
}

// pump carries one direction. The first bytes come later by setup.
func (l *Link) pump(to, from *net.TCPConn, p *pipe, setup time.Duration) {
	queue := make(chan segment, linkWindow)
	var reader sync.WaitGroup
	var readErr error // the reader's, until it has ended
	reader.Go(func() {
		defer close(queue)
		earliest := time.Now().Add(setup)
		for {
			b := make([]byte, linkSegment)
			n, err := from.Read(b)
			if n > 0 {
				due := p.arrival(n)
				if due.Before(earliest) {
					due = earliest
				}
				queue <- segment{b[:n], due.Add(l.latency / 2)}
			}
			if err != nil {
				readErr = err
				return
			}
		}
	})
	var writeErr error
	for s := range queue {
		if writeErr != nil {
			continue
		}
		time.Sleep(time.Until(s.due))
		if _, writeErr = to.Write(s.bytes); writeErr != nil {
			reset(from) // ends the reader
		}
	}
	reader.Wait()
	if errors.Is(readErr, io.EOF) && writeErr == nil {
		_ = to.CloseWrite()
		return
	}
	reset(to)
	reset(from)
}

// reset closes a connection so that the other side sees a reset.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
