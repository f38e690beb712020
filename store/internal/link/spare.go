package link

import (
	"context"
	"net"
	"sync"
	"time"
)

// spareTime is how long a connection waits for somebody who wants it: less than servers wait for a first
// request.
const spareTime = 4 * time.Second

// A dialFunc opens a connection. It has closed called once: when that is closed, or if it cannot be opened.
type dialFunc func(ctx context.Context, network, addr string, closed func()) (net.Conn, error)

// withSpares returns dial for a transport, and has it open connections ahead as o says.
func withSpares(dial dialFunc, o *Options) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&spares{dial: dial, n: o.Spare, most: o.Connections}).take
}

// spares opens connections ahead: n of them beside one that is wanted when there are none, but no more than most in
// all to one server. It has nothing to close: all that it has is gone after the time that a connection takes to
// be opened, and spareTime.
type spares struct {
	dial    dialFunc
	n, most int

	mu   sync.Mutex // guards what follows
	free map[string][]*spare
	live map[string]int // connections that are open or on their way, taken or not
}

// A spare is a connection that is there or on its way.
type spare struct {
	done chan struct{} // closed when what follows is set
	conn net.Conn
	err  error
	old  *time.Timer // closes it
}

// take returns a connection of before, or opens one.
func (s *spares) take(ctx context.Context, network, addr string) (net.Conn, error) {
	if one := s.next(network, addr); one != nil {
		select {
		case <-one.done:
			if one.err == nil {
				return one.conn, nil
			}
		case <-ctx.Done():
			s.put(network+addr, one) // somebody else may want it
			return nil, context.Cause(ctx)
		}
		s.count(network+addr, 1)
	}
	return s.connect(ctx, network, addr)
}

// next takes a spare. If there is none it counts one that the caller opens, begins to open some, and returns nil.
func (s *spares) next(network, addr string) *spare {
	key := network + addr
	s.mu.Lock()
	defer s.mu.Unlock()
	for list := s.free[key]; len(list) > 0; list = s.free[key] {
		one := list[0]
		if s.keep(key, list[1:]); one.old.Stop() {
			return one
		}
	}
	if s.free == nil {
		s.free, s.live = make(map[string][]*spare), make(map[string]int)
	}
	s.live[key]++
	for range min(s.n, s.most-s.live[key]) {
		s.live[key]++
		s.free[key] = append(s.free[key], s.open(network, addr))
	}
	return nil
}

// connect opens a connection that is counted.
func (s *spares) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	return s.dial(ctx, network, addr, func() { s.count(network+addr, -1) })
}

func (s *spares) count(key string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[key] += n; s.live[key] == 0 {
		delete(s.live, key)
	}
}

func (s *spares) open(network, addr string) *spare {
	one := &spare{done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), spareTime)
	one.old = time.AfterFunc(spareTime, func() { s.drop(network+addr, one) })
	go func() {
		defer cancel()
		one.conn, one.err = s.connect(ctx, network, addr)
		close(one.done)
	}()
	return one
}

// put gives a spare back, which is closed in its time.
func (s *spares) put(key string, one *spare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free[key] = append(s.free[key], one)
	one.old.Reset(spareTime)
}

// keep has list as the spares to one server; there may be ever new ones, of which nothing is to stay. mu is held.
func (s *spares) keep(key string, list []*spare) {
	if s.free[key] = list; len(list) == 0 {
		delete(s.free, key)
	}
}

// drop closes a spare that nobody has taken.
func (s *spares) drop(key string, one *spare) {
	s.mu.Lock()
	for i, other := range s.free[key] {
		if other == one {
			s.keep(key, append(s.free[key][:i:i], s.free[key][i+1:]...))
			break
		}
	}
	s.mu.Unlock()
	if <-one.done; one.err == nil {
		_ = one.conn.Close()
	}
}
