package nbd

import (
	"net"
	"sync/atomic"
	"time"
)

// A stream carries the transmission phase: one goroutine reads at a time, and
// one writes.
type stream interface {
	// read waits for at least one byte; between requests also for the server to
	// be handed over, which is errHandOff.
	read(p []byte, between bool) (int, error)
	// readFull fills p. It gives up with os.ErrDeadlineExceeded when the peer
	// sends nothing for the stream's time limit, or not all of p within twice that.
	readFull(p []byte) error
	// write writes all of p. It gives up with os.ErrDeadlineExceeded when the
	// peer takes nothing for the stream's time limit, or not all of p within
	// twice that.
	write(p []byte) error
	// stopReading makes reads fail once what has arrived is read, or sooner.
	stopReading()
	// abort makes reads and writes fail, also those that wait.
	abort()
	// close frees the stream. Nobody may use it any more.
	close()
	// handable reports whether another process can go on with the stream.
	handable() bool
	// detach is close for a stream that is handable: it returns the socket, the
	// caller's.
	detach() int
}

// A connStream is a stream on any net.Conn, TLS included.
type connStream struct {
	nc       net.Conn
	limit    time.Duration
	deadline time.Time // the writer's
	stopped  atomic.Bool
}

var _ stream = (*connStream)(nil)

func (s *connStream) read(p []byte, _ bool) (int, error) { return s.nc.Read(p) }

func (s *connStream) readFull(p []byte) error {
	end := time.Now().Add(2 * s.limit)
	for n := 0; n < len(p); {
		wait := time.Now().Add(s.limit)
		if wait.After(end) {
			wait = end
		}
		if err := s.setReadDeadline(wait); err != nil {
			return err
		}
		m, err := s.nc.Read(p[n:])
		if n += m; err != nil && n < len(p) {
			return err
		}
	}
	return s.setReadDeadline(time.Time{})
}

// setReadDeadline does not undo stopReading.
func (s *connStream) setReadDeadline(at time.Time) error {
	err := s.nc.SetReadDeadline(at)
	if s.stopped.Load() {
		err = s.nc.SetReadDeadline(past)
	}
	return err
}

// write renews the deadline only once a quarter of it has passed, since that
// costs as much as a small write.
func (s *connStream) write(p []byte) error {
	if now := time.Now(); s.deadline.Sub(now) < s.limit+s.limit/2 {
		s.deadline = now.Add(2 * s.limit)
		if err := s.nc.SetWriteDeadline(s.deadline); err != nil {
			return err
		}
	}
	_, err := s.nc.Write(p)
	return err
}

// past is a time that is over.
var past = time.Unix(1, 0)

func (s *connStream) stopReading() {
	s.stopped.Store(true)
	_ = s.nc.SetReadDeadline(past)
}

func (s *connStream) abort() { _ = s.nc.Close() }
func (s *connStream) close() { _ = s.nc.Close() }

// handable: TLS has its keys in this process.
func (s *connStream) handable() bool { return false }
func (s *connStream) detach() int    { return -1 }
