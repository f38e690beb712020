// Package vhostuser offers block devices to virtual machines over vhost-user: a
// guest's virtio-blk requests are taken from, and answered in, memory that its
// monitor (QEMU, Cloud Hypervisor, Firecracker) shares over a unix socket. One
// socket is one disk, and has one front end at a time; one that connects meanwhile
// waits.
//
// # What is trusted
//
// Nothing that comes by the socket or lies in the shared memory. Messages have
// bounds (internal/wire), every address, index and length of a ring is checked when
// it has been read, once (internal/virtqueue), and a request's memory is what is
// mapped, whatever the guest writes meanwhile. A ring that breaks the rules is
// stopped, the others go on. What a guest writes is copied before the device sees
// it, so that it does not change between two looks.
//
// The front end may take memory away that it has shared, and an access then faults.
// Where that cannot be (a memfd sealed against shrinking, as QEMU's
// memory-backend-memfd and Firecracker make them) devices read straight into the
// guest's memory. Elsewhere they read into a buffer of ours, which is copied. A
// fault in that copy, or in a look at a ring, ends the connection, and nothing else:
// no lock is held over one that is not unlocked by a defer. The kernel's accesses
// for a device fail with an error by themselves.
//
// # Who does what
//
//	Serve's goroutine   accepts, reads messages, starts and stops rings; between
//	                    stop and start nobody looks at the memory
//	a ring's workers    take turns in leading (frontend/internal/lead): the leader
//	                    takes requests, and serves them itself while the device is
//	                    fast; when it is slow, as many run as MaxRequests
//
// Stopping a ring waits for its requests, as long as the device takes: their memory
// must stay mapped. So does the end of a connection, and the next one begins after
// that, so that no request of the old one can overtake the same one taken again.
//
// # When the process dies
//
// What a ring has taken and not answered stands in memory that the front end keeps
// (INFLIGHT_SHMFD). The next process gets it back and does those requests again,
// in their order. That is sound since a request that was not answered may be done
// twice: a killed process's system calls are over before its socket closes, and no
// front end connects anew before that. Guests see a pause. A request that a device
// leaves to the next process ([blockdev.ErrLeft]) is treated alike; without that memory,
// it fails.
package vhostuser

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/internal/loglimit"
)

// Defaults and bounds.
const (
	DefaultQueues      = 64
	MaxQueues          = 256
	DefaultMaxRequests = 64

	replyTimeout = 10 * time.Second // for a front end to take a reply
)

// ErrClosed is what Serve returns on a server that was shut down before.
var ErrClosed = errors.New("vhost-user server is closed")

// An Export is a device and how it is shown.
type Export struct {
	// Device must stay open until Serve has returned. It can be written if it is a
	// blockdev.Writer.
	Device blockdev.Device
	// ReadOnly shows a device that can be written as one that cannot.
	ReadOnly bool
	// Serial is what guests get as the disk's serial number, cut off at 20 bytes.
	Serial string
	// Queues is how many the front end may use, at most MaxQueues. 0: DefaultQueues.
	Queues int
}

// A Server offers one device. Its settings must not change once it serves. All
// methods may be called at any time, from any goroutine.
type Server struct {
	Export Export
	// Log gets what goes wrong, a few lines a second of one kind at most, since
	// guests cause them. Nil: nothing.
	Log *slog.Logger
	// MaxRequests bounds the requests of one queue that run at a time. Further ones
	// stay in the ring. 0: DefaultMaxRequests.
	MaxRequests int
	// Poll bounds how long a queue that was busy is looked at before its front end
	// has to wake us: less latency for a processor that does nothing else. How
	// long it really is follows what pays. 0: no polling.
	Poll time.Duration

	ready   sync.Once
	log     *slog.Logger
	silence time.Duration // 0: settleTime
	stats   counters

	mu       sync.Mutex
	closed   bool
	listener net.Listener
	current  *session
	ended    chan struct{} // closes when Serve has returned; nil before Serve
}

type counters struct {
	connections, requests, failed, deviceErrors, read, written, broken, faults, resubmitted, kicks, signals atomic.Int64
}

// Stats are counts since the server was made.
type Stats struct {
	Connections  int64 // front ends
	Requests     int64
	Failed       int64 // requests answered by an error
	DeviceErrors int64 // calls that the device failed
	BytesRead    int64 // from the device
	BytesWritten int64
	Resubmitted  int64 // requests of an earlier process that were taken once more
	Broken       int64 // rings that broke the rules
	Faults       int64 // accesses to memory that was no longer there
	Kicks        int64 // wake-ups by the front end
	Signals      int64 // wake-ups of it
}

// Stats returns the counts. They are read one by one.
func (s *Server) Stats() Stats {
	c := &s.stats
	return Stats{
		c.connections.Load(), c.requests.Load(), c.failed.Load(), c.deviceErrors.Load(), c.read.Load(),
		c.written.Load(), c.resubmitted.Load(), c.broken.Load(), c.faults.Load(), c.kicks.Load(), c.signals.Load(),
	}
}

// Connected reports whether there is a front end.
func (s *Server) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current != nil
}

// Serve accepts front ends on ln, one after the other, until ctx is done, or the
// server is shut down or closed, which is no error. It closes ln. It returns when
// the device is no longer used, which can take as long as the device's slowest
// request. It is called once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer func() { _ = ln.Close() }()
	if err := s.begin(ln); err != nil {
		return err
	}
	defer close(s.ended)
	stop := context.AfterFunc(ctx, s.Close)
	defer stop()
	for pause := time.Duration(0); ; {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			s.serve(nc)
		case s.isClosed():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		default: // most likely out of descriptors: wait for some to be closed
			pause = min(max(2*pause, time.Millisecond), time.Second)
			s.log.Warn("vhost-user: accept failed", "addr", ln.Addr().String(), "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
}

func (s *Server) begin(ln net.Listener) error {
	s.ready.Do(func() {
		s.log = slog.New(slog.DiscardHandler)
		if s.Log != nil {
			s.log = loglimit.New(s.Log)
		}
	})
	if n := s.queues(); n < 1 || n > MaxQueues {
		return fmt.Errorf("serve vhost-user: %d queues, want 1 to %d", n, MaxQueues)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.ended != nil {
		return errors.New("serve vhost-user: the server serves already")
	}
	s.listener, s.ended = ln, make(chan struct{})
	return nil
}

// serve serves one front end until it has gone.
func (s *Server) serve(nc net.Conn) {
	defer func() { _ = nc.Close() }()
	se, err := newSession(s, nc)
	if err != nil {
		s.log.Error("vhost-user: connection refused", "err", err)
		return
	}
	s.mu.Lock()
	if !s.closed {
		s.current = se
	}
	ok := !s.closed
	s.mu.Unlock()
	if !ok {
		return
	}
	s.stats.connections.Add(1)
	se.run()
	s.mu.Lock()
	s.current = nil
	s.mu.Unlock()
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Close ends serving: no further request is taken. It does not wait for those that
// run; their answers reach the front end all the same. Serve returns when the
// device has let go of them.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.current != nil {
		s.current.end()
	}
}

// Shutdown ends serving as Close does, and waits until Serve has returned, as long
// as ctx, whose error it returns then. Front ends that connect to a later server
// with their record of requests in flight notice nothing but a pause.
func (s *Server) Shutdown(ctx context.Context) error {
	s.settle(ctx)
	s.Close()
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut down vhost-user: %w", ctx.Err())
	}
}

// A front end that has said something less than settleTime ago may be in the middle of
// its handshake, for which Shutdown waits, at most settleBound: QEMU 7.2 gives a device
// up whose handshake is cut.
const (
	settleTime  = 20 * time.Millisecond
	settleBound = time.Second
)

// settle returns when the front end, if there is one, has been silent for a moment.
func (s *Server) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	for {
		s.mu.Lock()
		se := s.current
		s.mu.Unlock()
		if se == nil {
			return
		}
		left := cmp.Or(s.silence, settleTime) - time.Since(se.lastHeard())
		if left <= 0 {
			return
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) queues() int {
	if s.Export.Queues == 0 {
		return DefaultQueues
	}
	return s.Export.Queues
}

func (s *Server) maxRequests() int {
	if s.MaxRequests <= 0 {
		return DefaultMaxRequests
	}
	return s.MaxRequests
}
