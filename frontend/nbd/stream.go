package nbd

import (
	"net"
	"time"
)

// A stream carries the transmission phase: one goroutine reads at a time, and
// one writes.
type stream interface {
	// read waits for at least one byte.
	read(p []byte) (int, error)
	// writeAll writes all of v within the stream's time limit. It changes v's
	// elements.
	writeAll(v net.Buffers) error
	// stopReading makes read fail, now and later, once what has arrived is read
	// or sooner.
	stopReading()
	// close ends both directions. It may be called more than once.
	close()
}

// A connStream is a stream on any net.Conn, TLS included.
type connStream struct {
	nc       net.Conn
	limit    time.Duration // for a write
	deadline time.Time     // the writer's
	vec      net.Buffers   // the writer's
}

var _ stream = (*connStream)(nil)

func (s *connStream) read(p []byte) (int, error) { return s.nc.Read(p) }

// writeAll renews the deadline only once a quarter of it has passed, since that
// costs as much as a small write. A peer that takes nothing is given up after
// between three and four quarters of the limit.
func (s *connStream) writeAll(v net.Buffers) error {
	if now := time.Now(); s.deadline.Sub(now) < s.limit-s.limit/4 {
		s.deadline = now.Add(s.limit)
		if err := s.nc.SetWriteDeadline(s.deadline); err != nil {
			return err
		}
	}
	s.vec = v
	_, err := s.vec.WriteTo(s.nc)
	return err
}

func (s *connStream) stopReading() { _ = s.nc.SetReadDeadline(time.Unix(1, 0)) }

func (s *connStream) close() { _ = s.nc.Close() }

func newStream(nc net.Conn, limit time.Duration) stream {
	return &connStream{nc: nc, limit: limit}
}
