package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
)

// errHandOff ends a wait for a request because of HandOff.
var errHandOff = errors.New("server is handed over")

// lastGreeting is how long a handshake may still take that HandOff finds begun: a
// silent client must not hold up the others.
const lastGreeting = 3 * time.Second

// A ConnState is what another process needs, beside the socket and the same
// export, to go on with a connection where this one stopped. Client and server
// have agreed on it, or on what follows from it.
type ConnState struct {
	Version    int      `json:"version"` // 1
	Export     string   `json:"export"`
	Size       int64    `json:"size"` // of the export, in bytes, as the client was told
	Structured bool     `json:"structured,omitempty"`
	Contexts   []string `json:"contexts,omitempty"` // metadata contexts, by name
	Writable   bool     `json:"writable,omitempty"` // the client was told so
	// Pending is what the client has sent and nobody has looked at: the start of
	// a request, or several. At most 8 KiB.
	Pending []byte `json:"pending,omitempty"`
}

const connVersion = 1

// A Handed is a connection whose server has stopped between two requests: all
// that came before are answered.
type Handed struct {
	State ConnState
	FD    int // the socket, blocking; the caller's
}

// HandOff stops the server so that another process can go on with its
// connections: it stops accepting, leaving a unix listener's socket in its place,
// lets connections finish their handshakes and the requests they have begun, and
// returns them. Clients notice nothing but a pause. Connections over TLS cannot
// travel: they are answered and closed, as by Shutdown.
//
// It returns when all have stopped; when ctx is done it closes those left, and
// returns ctx's error beside the others. The server is of no more use.
func (s *Server) HandOff(ctx context.Context) ([]Handed, error) {
	s.mu.Lock()
	s.handing.Store(true)
	if s.signal != nil {
		s.signal.raise()
	}
	for ln := range s.listeners {
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		_ = ln.Close()
	}
	s.mu.Unlock()
	// What has been accepted by now goes along.
	accepted := make(chan struct{})
	go func() { s.accepts.Wait(); close(accepted) }()
	select {
	case <-accepted:
	case <-ctx.Done():
	}
	s.mu.Lock()
	ended := s.awaitEnd()
	for se := range s.conns {
		if se.conn == nil {
			_ = se.nc.SetDeadline(time.Now().Add(lastGreeting))
		} else if !se.conn.stream.handable() {
			se.shutDown()
		}
	}
	s.mu.Unlock()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = ctx.Err()
		s.Close()
		<-ended
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	handed := s.handed
	s.handed = nil
	return handed, err
}

// handOver takes a connection that has stopped.
func (s *Server) handOver(fd int, c *conn) {
	st := ConnState{
		Version: connVersion, Export: c.exp.Name, Size: c.size, Structured: c.structured,
		Writable: c.exp.writer != nil, Pending: slices.Clone(c.in[c.inFrom:c.inTo]),
	}
	for _, m := range c.contexts {
		st.Contexts = append(st.Contexts, m.name)
	}
	s.mu.Lock()
	s.handed = append(s.handed, Handed{st, fd})
	s.mu.Unlock()
}

// Resume goes on with a connection that another server has handed off, until that
// ends, ctx does, or the server. The export must be there. It owns the socket h.FD.
// An error says that h does not fit this server; the connection is closed then.
func (s *Server) Resume(ctx context.Context, h Handed) error {
	if h.FD < 0 {
		return errors.New("resume connection: without a socket")
	}
	f := os.NewFile(uintptr(h.FD), "NBD connection")
	nc, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("resume connection: %w", err)
	}
	if err = h.State.check(s); err == nil {
		err = s.enter(nil)
	}
	if err != nil {
		_ = nc.Close()
		return fmt.Errorf("resume connection: %w", err)
	}
	se := s.admit(ctx, nc)
	if se == nil {
		s.exit(nil)
		_ = nc.Close()
		return fmt.Errorf("resume connection: %w", ErrClosed)
	}
	se.resumed = &h.State
	go func() {
		defer s.exit(nil)
		defer s.leave(se)
		se.run()
	}()
	return nil
}

// Join serves a client that has had no handshake: one that is told by other means what it is to know of
// the export, as the kernel's is by netlink. It speaks simple replies. Join owns the connected stream socket fd,
// and ends as Resume does.
func (s *Server) Join(ctx context.Context, name string, fd int) error {
	e := s.find(name)
	if e == nil {
		_ = closeFD(fd)
		return fmt.Errorf("export %q: %w", name, ErrUnknownExport)
	}
	return s.Resume(ctx, Handed{ConnState{Version: connVersion, Export: e.Name, Size: e.size, Writable: e.writer != nil}, fd})
}

// closeFD closes a descriptor that nobody has wrapped yet.
func closeFD(fd int) error { return os.NewFile(uintptr(fd), "NBD connection").Close() }

// check reports, by a nil error, whether s can go on with a connection.
func (st *ConnState) check(s *Server) error {
	e := s.find(st.Export)
	switch {
	case st.Version != connVersion:
		return fmt.Errorf("state of version %d, want %d", st.Version, connVersion)
	case e == nil:
		return fmt.Errorf("export %q: %w", st.Export, ErrUnknownExport)
	case e.size != st.Size:
		return fmt.Errorf("export %q has %d bytes, and the client was told %d", st.Export, e.size, st.Size)
	case (e.writer != nil) != st.Writable:
		return fmt.Errorf("export %q: writable is %t, and the client was told %t", st.Export, e.writer != nil, st.Writable)
	case len(st.Pending) > inBytes:
		return fmt.Errorf("%d bytes are pending, at most %d", len(st.Pending), inBytes)
	case len(st.Contexts) > 0 && !st.Structured:
		return errors.New("metadata contexts without structured replies")
	}
	_, err := st.contexts()
	return err
}

// contexts finds the contexts that have the state's names, each once.
func (st *ConnState) contexts() ([]metaContext, error) {
	var list []metaContext
	for _, m := range metaContexts {
		if slices.Contains(st.Contexts, m.name) {
			list = append(list, m)
		}
	}
	if len(list) != len(st.Contexts) {
		return nil, fmt.Errorf("metadata contexts %q: not all known", st.Contexts)
	}
	return list, nil
}

// resume is the handshake of a connection that has had one.
func (h *handshake) resume(st *ConnState) error {
	e := h.attach(st.Export)
	if e == nil {
		return fmt.Errorf("export %q: %w", st.Export, ErrUnknownExport)
	}
	h.structured = st.Structured
	h.export = e
	var err error
	h.contexts, err = st.contexts()
	return err
}
