package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// A session is a client's connection from accept to close: the handshake, then
// a conn.
type session struct {
	srv    *Server
	nc     net.Conn
	ctx    context.Context
	cancel context.CancelFunc // ends the session at once

	resumed *ConnState // what another process agreed on with the client, or nil

	// Under the server's mutex.
	export *export // once the handshake has chosen it
	conn   *conn   // once it is over
	drain  bool
}

func newSession(ctx context.Context, s *Server, nc net.Conn) *session {
	se := &session{srv: s, nc: nc}
	se.ctx, se.cancel = context.WithCancel(ctx)
	return se
}

// run serves the client and closes the connection.
func (se *session) run() {
	defer se.cancel()
	stop := context.AfterFunc(se.ctx, func() { _ = se.nc.Close() })
	defer stop()
	defer func() { _ = se.nc.Close() }()

	if err := se.nc.SetDeadline(time.Now().Add(se.srv.handshakeTimeout())); err != nil {
		return
	}
	h := &handshake{srv: se.srv, nc: se.nc, attach: se.attach}
	if err := se.agree(h); err != nil {
		if !errors.Is(err, errEnd) && !errors.Is(err, io.EOF) && se.ctx.Err() == nil {
			se.srv.log.Warn("nbd: handshake failed", "client", se.nc.RemoteAddr().String(), "err", err)
		}
		return
	}
	if err := h.nc.SetDeadline(time.Time{}); err != nil {
		return
	}
	st, err := newStream(h.nc, se.srv.writeTimeout(), se.srv.signal)
	if err != nil {
		se.srv.log.Warn("nbd: connection lost", "client", se.nc.RemoteAddr().String(), "err", err)
		return
	}
	c := newConn(se.ctx, se.srv, st, h)
	if se.resumed != nil {
		c.inTo = copy(c.in, se.resumed.Pending)
	}
	if !se.start(c) {
		st.close()
		return
	}
	aborted := make(chan struct{})
	stopConn := context.AfterFunc(se.ctx, func() { c.abort(); close(aborted) })
	c.run()
	// Nobody may touch the descriptor once it is closed.
	se.forget()
	if !stopConn() {
		<-aborted
		c.hand = false
	}
	if c.hand && c.out.err == nil {
		se.srv.handOver(st.detach(), c)
		return
	}
	st.close()
}

// agree runs the handshake, unless another process has done so.
func (se *session) agree(h *handshake) error {
	if se.resumed == nil {
		return h.run(se.ctx)
	}
	return h.resume(se.resumed)
}

// attach makes the session a user of the export called name, or returns nil.
func (se *session) attach(name string) *export {
	s := se.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.findLocked(name)
	if e != nil {
		e.users++
		se.export = e
	}
	return e
}

// start makes c the session's connection, unless the session has to end.
func (se *session) start(c *conn) bool {
	se.srv.mu.Lock()
	defer se.srv.mu.Unlock()
	if se.drain || se.srv.handing.Load() && !c.stream.handable() {
		return false
	}
	se.conn = c
	return true
}

// forget undoes start.
func (se *session) forget() {
	se.srv.mu.Lock()
	se.conn = nil
	se.srv.mu.Unlock()
}

// shutDown ends the session in good order. It needs the server's mutex.
func (se *session) shutDown() {
	se.drain = true
	if se.conn != nil {
		se.conn.shutDown()
	} else {
		se.cancel()
	}
}
