// Package nbd offers block devices over the NBD protocol, for QEMU, libnbd, the
// kernel's client and whoever else speaks it.
//
// The server speaks the fixed newstyle handshake, structured replies with holes,
// and block status in two contexts: base:allocation, and rivulet:local, where
// bit 0 of the flags is set on ranges whose reading would go to the origin.
//
// An export whose device is a blockdev.Writer can be written: FLUSH and FUA are
// the device's Flush, on whichever connection they come, TRIM and WRITE_ZEROES
// its Discard and, where the client wants no hole, its WriteZeroes. A write is
// answered ENOSPC for blockdev.ErrNoSpace, and EIO for any other error. All other
// exports are read-only.
//
// Clients are strangers. What one can make the server keep is bounded, by
// requests and bytes a connection, and bytes in all; what it can make the
// server wait for is bounded in time. A connection always has some memory that
// the others cannot take. The device's slow requests hold up neither the
// connection's other requests nor other connections. How a connection's
// goroutines share the work is told at the type conn.
package nbd

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

	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
	"github.com/rivuletfs/rivulet/internal/loglimit"
)

// Limits that are not settings, in bytes.
const (
	floorBytes = 2 * pieceBytes    // of replies a connection may always have
	minPool    = 2 * wire.MaxBlock // the pool holds two of the largest reads
)

// connectionsPerExport has a server of very many exports let in the clients of them all.
const connectionsPerExport = 4

// Defaults of a Server's settings.
const (
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultWriteTimeout     = 30 * time.Second
	DefaultMaxConnections   = 256 // and connectionsPerExport for each export
	DefaultMaxRequests      = 64
	DefaultMaxBytes         = 256 << 20
)

// Errors that callers may branch on.
var (
	ErrExportExists  = errors.New("an export of this name exists")
	ErrUnknownExport = errors.New("no such export")
	ErrClosed        = errors.New("server is closed")

	errNoExtents = errors.New("device lists no extents")
)

// A Server offers exports on any number of listeners. Its zero value is ready;
// the settings must not change once it serves. All methods may be called at any
// time, from any goroutine.
type Server struct {
	// Log gets what goes wrong, none of it a client's data, and no more than a
	// few lines a second of one kind, since clients cause them. Nil: nothing.
	Log *slog.Logger
	// TLS lets clients start TLS with this configuration. Nil: they cannot.
	TLS *tls.Config
	// RequireTLS refuses clients that do not.
	RequireTLS bool
	// DefaultExport is the name of the export that a client gets who asks for
	// the empty name. If that is empty and there is but one export, it is that.
	DefaultExport string
	// HandshakeTimeout bounds the time from accept to the end of the handshake.
	HandshakeTimeout time.Duration
	// WriteTimeout bounds how long a client may leave replies untaken, and how
	// long it may let wait for what it wants written.
	WriteTimeout time.Duration
	// MaxConnections bounds the connections; more are closed at once. Zero is
	// DefaultMaxConnections, and four more for each export.
	MaxConnections int
	// MaxRequests bounds the requests in flight on one connection. Further ones
	// stay unread in the socket.
	MaxRequests int
	// MaxBytes bounds the memory for replies and payloads that all connections together use
	// beyond the 2 MiB that each may always use. At least 64 MiB.
	MaxBytes int64

	pool  pool
	ready sync.Once // sets pool and log
	log   *slog.Logger
	stats counters

	handing atomic.Bool // set once: connections stop at their next request

	mu        sync.Mutex
	exports   map[string]*export
	listeners map[net.Listener]struct{}
	conns     map[*session]struct{}
	closed    bool
	serving   int            // calls of Serve and Resume
	signal    *handOffSignal // while there are any; they read it without mu
	handed    []Handed
	ended     chan struct{} // closes when no connection is left; made by Shutdown

	accepts sync.WaitGroup // calls of Serve that may still admit a connection
}

type counters struct {
	accepted, refused, requests, failed, deviceErrors, bytes, written atomic.Int64
}

// Stats are counts since the server was made.
type Stats struct {
	Connections  int   // open now
	Accepted     int64 // connections
	Refused      int64 // connections beyond MaxConnections
	Requests     int64 // read from clients
	Failed       int64 // requests answered by an error
	DeviceErrors int64 // requests that the device failed
	BytesRead    int64 // from devices
	BytesWritten int64 // to devices, zeroes not counted
}

// Stats returns the counts. They are read one by one.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	c := &s.stats
	return Stats{
		Connections: n, Accepted: c.accepted.Load(), Refused: c.refused.Load(),
		Requests: c.requests.Load(), Failed: c.failed.Load(),
		DeviceErrors: c.deviceErrors.Load(), BytesRead: c.bytes.Load(), BytesWritten: c.written.Load(),
	}
}

// Serve accepts connections on ln until ctx is done, or the server is shut down
// or closed, which is no error. It closes ln, and returns when its connections
// have ended. The end of ctx ends them at once; devices see it in the calls
// that take a context, and reads that a device does not end hold Serve up.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer func() { _ = ln.Close() }()
	if err := s.enter(ln); err != nil {
		return err
	}
	defer s.exit(ln)
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.accepts.Done()
	for pause := time.Duration(0); ; {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || s.isClosed() || s.handing.Load() {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
			}
			// Most likely out of descriptors: wait for some to be closed.
			pause = min(max(2*pause, time.Millisecond), time.Second)
			s.log.Warn("nbd: accept failed", "addr", ln.Addr().String(), "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		se := s.admit(ctx, nc)
		if se == nil {
			_ = nc.Close()
			continue
		}
		wg.Go(func() {
			defer s.leave(se)
			se.run()
		})
	}
}

// Shutdown stops accepting, answers the requests that have arrived, and closes
// the connections. It returns when all are closed, or closes those left and
// returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closeListeners()
	ended := s.awaitEnd()
	for se := range s.conns {
		se.shutDown()
	}
	s.mu.Unlock()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		s.Close()
		return ctx.Err()
	}
}

// awaitEnd returns a channel that closes when no connection is left. It needs
// s.mu, and that no more connections are admitted.
func (s *Server) awaitEnd() <-chan struct{} {
	if s.ended == nil {
		s.ended = make(chan struct{})
		if len(s.conns) == 0 {
			close(s.ended)
		}
	}
	return s.ended
}

// Close closes the listeners and the connections at once. Serve returns when
// the devices have let go of the requests that ran.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeListeners()
	for se := range s.conns {
		se.cancel()
	}
}

// closeListeners needs s.mu.
func (s *Server) closeListeners() {
	s.closed = true
	for ln := range s.listeners {
		_ = ln.Close()
	}
}

// enter begins a Serve, or with a nil listener a Resume; exit ends it.
func (s *Server) enter(ln net.Listener) error {
	s.ready.Do(s.init)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.handing.Load() {
		return ErrClosed
	}
	if s.serving == 0 {
		signal, err := newHandOffSignal()
		if err != nil {
			return fmt.Errorf("serve NBD: %w", err)
		}
		s.signal = signal
	}
	s.serving++
	if s.listeners == nil {
		s.listeners = map[net.Listener]struct{}{}
	}
	if ln != nil {
		s.listeners[ln] = struct{}{}
		s.accepts.Add(1)
	}
	return nil
}

func (s *Server) exit(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
	if s.serving--; s.serving == 0 {
		s.signal.close()
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// admit makes nc a session, or returns nil if there are enough.
func (s *Server) admit(ctx context.Context, nc net.Conn) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.maxConnections() {
		s.stats.refused.Add(1)
		return nil
	}
	s.stats.accepted.Add(1)
	if s.conns == nil {
		s.conns = map[*session]struct{}{}
	}
	se := newSession(ctx, s, nc)
	s.conns[se] = struct{}{}
	return se
}

func (s *Server) leave(se *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, se)
	if se.export != nil {
		se.export.leave()
	}
	if s.ended != nil && len(s.conns) == 0 {
		select {
		case <-s.ended:
		default:
			close(s.ended)
		}
	}
}

func or[T comparable](v, preset T) T {
	var zero T
	if v == zero {
		return preset
	}
	return v
}

func (s *Server) handshakeTimeout() time.Duration {
	return or(s.HandshakeTimeout, DefaultHandshakeTimeout)
}
func (s *Server) writeTimeout() time.Duration { return or(s.WriteTimeout, DefaultWriteTimeout) }
func (s *Server) maxRequests() int            { return or(s.MaxRequests, DefaultMaxRequests) }
func (s *Server) maxBytes() int64             { return or(s.MaxBytes, DefaultMaxBytes) }

// maxConnections needs s.mu.
func (s *Server) maxConnections() int {
	return or(s.MaxConnections, DefaultMaxConnections+connectionsPerExport*len(s.exports))
}

// init makes what needs the settings.
func (s *Server) init() {
	s.pool.free = max(s.maxBytes(), minPool)
	s.log = slog.New(slog.DiscardHandler)
	if s.Log != nil {
		s.log = loglimit.New(s.Log)
	}
}
