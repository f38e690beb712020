package cached

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/cache"
)

const (
	// zoneTime bounds a look into the zone.
	zoneTime = 2 * time.Second
	// downloadTime bounds a download, waiting in line included.
	downloadTime = 2 * time.Minute
	// beginTries and beginPause are how long a deposit waits for one of the same
	// chunk, which was given up, to be gone.
	beginTries = 50
	beginPause = 2 * time.Millisecond
)

// get answers a Get: with a hit at once, or when its flight says so. A chunk that
// has to be read first, because nobody asked for it since the start, holds up no
// other request.
func (c *conn) get(m *wire.Message) error {
	want, err := wire.ParseWant(m.Payload)
	if err != nil {
		return err
	}
	s := c.server
	if !s.cache.Unchecked(want.ID) {
		if a, ok := s.lookUp(c, m.Request, &want); ok {
			return c.reply(a)
		}
		return nil
	}
	request := m.Request
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		a, ok := s.lookUp(c, request, &want)
		if !ok {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !c.gone {
			c.later(a)
		} else if a.release != nil {
			a.release()
		}
	}()
	return nil
}

// lookUp returns the answer to a Get, unless its flight will give it.
func (s *Server) lookUp(c *conn, request uint64, want *wire.Want) (answer, bool) {
	h, err := s.cache.Acquire(want.ID)
	switch {
	case err == nil && !suffices(h, want.Extract):
		h.Release()
		s.join(c, request, want)
		return answer{}, false
	case err == nil:
		s.stats.hits.Add(1)
		return hit(request, h, nil), true
	case errors.Is(err, chunk.ErrNotFound):
		s.join(c, request, want)
		return answer{}, false
	}
	s.stats.misses.Add(1)
	return answer{request: request, kind: wire.Miss, payload: refusal(err).Append}, true
}

// raise makes a flight more urgent.
func (c *conn) raise(m *wire.Message) error {
	u, err := wire.ParseUrgent(m.Payload)
	if err != nil {
		return err
	}
	s := c.server
	s.mu.Lock()
	if f := s.flights[u.ID]; f != nil {
		f.priority.Raise(u.Priority)
	}
	s.mu.Unlock()
	return c.done(m.Request)
}

// touch notes that a client uses chunks by descriptors that it has, and tells
// which of them are not in the cache any more.
func (c *conn) touch(m *wire.Message) error {
	ids, err := wire.ParseIDs(m.Payload)
	if err != nil {
		return err
	}
	var gone []chunk.ID
	for _, id := range ids {
		if !c.server.cache.Touch(id) {
			gone = append(gone, id)
			continue
		}
		c.server.stats.touches.Add(1)
	}
	return c.reply(answer{request: m.Request, kind: wire.Gone, payload: func(b []byte) []byte { return wire.AppendIDs(b, gone...) }})
}

// look finds out whether the chunk came into the cache while the flight was
// begun, or is in the zone; else somebody gets the lease. mu is held.
func (s *Server) look(f *flight) {
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		h, err := s.cache.Acquire(f.id)
		if err == nil && (s.zone == nil || h.Extract() == 0) {
			s.land(f)
			h.Release()
			return
		} else if err == nil {
			h.Release() // the zone may have the rest
			err = chunk.ErrNotFound
		}
		if errors.Is(err, chunk.ErrNotFound) && s.zone != nil && s.fromZone(f) {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.stage != looking {
			return
		}
		if !errors.Is(err, chunk.ErrNotFound) {
			s.giveUp(f, refusal(err))
			return
		}
		s.offer(f)
	}()
}

// zoneBuffer is enough for a chunk of the usual size.
const zoneBuffer = chunk.Size + 64<<10

// fromZone reports whether the zone had the chunk.
func (s *Server) fromZone(f *flight) bool {
	ctx, cancel := context.WithTimeout(chunk.WithUrgency(s.done, f.priority), zoneTime)
	defer cancel()
	grant, err := s.looks.Acquire(ctx, zoneBuffer)
	defer func() { grant.Release(zoneBuffer) }()
	s.asks(f, chunk.Zone)
	begun := time.Now()
	answered := sync.OnceFunc(func() { s.stats.look.Add(time.Since(begun), 1) })
	if err == nil {
		err = s.zone.Offer(ctx, f.id, func(object []byte) error {
			answered()
			return s.takeObject(f, object)
		})
	}
	answered()
	if err == nil {
		s.stats.zoneHits.Add(1)
		return true
	}
	s.stats.zoneMisses.Add(1)
	s.mu.Lock()
	f.way.failed(err)
	s.mu.Unlock()
	if !errors.Is(err, chunk.ErrNotFound) {
		s.logger.Warn("host cache: zone", "chunk", f.id, "err", err)
	}
	return false
}

// takeObject writes a chunk that the zone offers into the cache, piece by piece, so that
// those who wait for its first frames need not wait for the last one's SHA-256.
func (s *Server) takeObject(f *flight, object []byte) error {
	in := &inflow{server: s, flight: f, stage: looking}
	_, err := in.begin(int64(len(object)))
	piece := chunk.FrameSize
	if len(object) <= 2*piece {
		piece = len(object) // sooner checked than asked for again
	}
	for err == nil && len(object) > 0 {
		n := min(len(object), piece)
		_, err = in.Write(object[:n])
		object = object[n:]
	}
	return in.end(s.done, err)
}

// fetch starts the download that the holder of a lease asks for.
func (c *conn) fetch(m *wire.Message) error {
	e, err := wire.ParseErrand(m.Payload)
	if err != nil {
		return err
	}
	clear(m.Payload) // which may be a secret
	s := c.server
	r := origin.Request{URL: e.URL, Header: make(map[string][]string), Offset: int64(e.Offset), Length: int64(e.Length)}
	for _, f := range e.Fields {
		r.Header.Add(f.Name, f.Value)
	}
	if s.download == nil {
		return c.fail(m.Request, wire.WrongUse, "this daemon downloads nothing")
	}
	if err := s.download.Check(&r); err != nil {
		return c.fail(m.Request, wire.Refused, err.Error())
	}
	s.mu.Lock()
	f := c.leases[e.Lease]
	if f == nil || f.stage != leased {
		s.mu.Unlock()
		return c.fail(m.Request, wire.NoLease, "")
	}
	s.unlease(f)
	taken := s.startDownload(f, r, strconv.Itoa(c.who.pid))
	if !taken {
		s.giveUp(f, tooBusy)
	}
	s.mu.Unlock()
	if !taken {
		return c.fail(m.Request, tooBusy.Reason, tooBusy.Text)
	}
	return c.done(m.Request)
}

// failed goes on after an attempt that failed of err. mu is held.
func (s *Server) failed(f *flight, err error) {
	switch {
	case errors.Is(err, cache.ErrFull):
		s.giveUp(f, noRoom)
	case errors.Is(err, cache.ErrClosed), s.closed:
		s.giveUp(f, closing)
	default:
		s.fall(f, err)
	}
}

// An inflow writes a flight's chunk into the cache. One goroutine uses it, the
// same or one after the other.
type inflow struct {
	server  *Server
	flight  *flight
	stage   stage // in which the flight must be
	lease   uint64
	extract chunk.Extract // what it brings; 0: the chunk
	deposit *cache.Deposit
	written int64
	checked int64
}

// errOvertaken is returned when the flight has gone on without this inflow.
var errOvertaken = errors.New("given up meanwhile")

// begin makes room for an object of size bytes.
func (in *inflow) begin(size int64) (io.Writer, error) {
	s, f := in.server, in.flight
	var err error
	for range beginTries {
		in.deposit, err = s.cache.BeginExtract(f.id, in.extract, size)
		if !errors.Is(err, cache.ErrExists) {
			break
		}
		time.Sleep(beginPause) // one that was given up is being removed
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.stage != in.stage || f.lease != in.lease {
		return nil, errOvertaken // end aborts it
	}
	f.deposit, f.busy = in.deposit, true
	return in, nil
}

// Write implements io.Writer, for what comes next of the object.
func (in *inflow) Write(p []byte) (int, error) {
	n, err := in.deposit.Write(p)
	if err != nil {
		return n, err
	}
	in.written += int64(n)
	checked := in.deposit.Checked()
	if checked == in.checked {
		return n, nil
	}
	in.checked = checked
	s := in.server
	s.mu.Lock()
	current := in.flight.deposit == in.deposit
	answered := current && s.advance(in.flight)
	s.mu.Unlock()
	if !current {
		return 0, errOvertaken
	}
	if answered {
		runtime.Gosched() // to those who send the answers; else they wait for the next SHA-256
	}
	return n, nil
}

// end commits the deposit, or if err is not nil aborts it, and returns why there
// is none. A flight whose chunk was committed has landed.
func (in *inflow) end(ctx context.Context, err error) error {
	d, s, f := in.deposit, in.server, in.flight
	if d == nil {
		return err
	}
	s.mu.Lock()
	if f.deposit == d { // nobody serves from it while it becomes something else
		f.deposit, f.busy = nil, false
	} else if err == nil {
		err = errOvertaken
	}
	s.mu.Unlock()
	if err != nil {
		s.refused(err)
		d.Abort()
		return err
	}
	h, err := d.Commit(ctx)
	if err != nil {
		s.refused(err)
		return err
	}
	defer h.Release()
	s.land(f)
	if s.zone != nil && in.stage != looking && in.extract == 0 {
		s.fill(h, f.id)
	}
	return nil
}

// refused counts a chunk that the door refused.
func (s *Server) refused(err error) {
	var corrupt *chunk.CorruptError
	if errors.As(err, &corrupt) {
		s.stats.corrupt.Add(1)
	}
}

// fill offers a chunk to the zone.
func (s *Server) fill(h *cache.Handle, id chunk.ID) {
	if object, err := h.AppendObject(nil); err == nil {
		s.zone.Fill(id, object)
	}
}

// deposit takes a piece of a chunk from the holder of its lease.
func (c *conn) deposit(m *wire.Message) error {
	p, err := wire.ParsePiece(m.Payload)
	if err != nil {
		return err
	}
	s := c.server
	s.mu.Lock()
	f := c.leases[p.Lease]
	if f == nil {
		s.mu.Unlock()
		delete(c.inflows, p.Lease)
		return c.fail(m.Request, wire.NoLease, "")
	}
	in := c.inflows[p.Lease]
	if in == nil {
		for lease := range c.inflows { // those that were lost, and are not gone on with
			if c.leases[lease] == nil {
				delete(c.inflows, lease)
			}
		}
		in = &inflow{server: s, flight: f, stage: depositing, lease: p.Lease}
		c.inflows[p.Lease] = in
		f.stage = depositing
	}
	f.busy = f.deposit != nil
	s.renew(f)
	s.mu.Unlock()
	return c.takePiece(m.Request, in, &p)
}

// takePiece writes a piece and answers. Only the reader calls it, so nothing
// else works on the inflow; the lease may be lost meanwhile.
func (c *conn) takePiece(request uint64, in *inflow, p *wire.Piece) error {
	s := c.server
	var err error
	switch {
	case in.deposit == nil && p.Off != 0, in.deposit != nil && (int64(p.Off) != in.written || int64(p.Size) != in.deposit.Size()):
		err = errOrder
	case in.deposit == nil:
		_, err = in.begin(int64(p.Size))
	}
	if err == nil {
		_, err = in.Write(p.Data)
	}
	whole := in.written == int64(p.Size)
	if err == nil && !whole {
		s.mu.Lock()
		if in.flight.deposit == in.deposit {
			in.flight.busy = false
		} else {
			err = errOvertaken
		}
		s.mu.Unlock()
	}
	if err == nil && !whole {
		return c.done(request)
	}
	delete(c.inflows, p.Lease)
	if err = in.end(s.done, err); err == nil {
		s.stats.deposits.Add(1)
		return c.done(request)
	}
	s.mu.Lock()
	if f := c.leases[p.Lease]; f != nil {
		s.unlease(f)
		s.failed(f, err)
	}
	s.mu.Unlock()
	return c.fail(request, depositReason(err), err.Error())
}

// errOrder is for pieces that do not follow each other.
var errOrder = errors.New("pieces of a deposit out of order")

func depositReason(err error) wire.Reason {
	var corrupt *chunk.CorruptError
	switch {
	case errors.As(err, &corrupt):
		return wire.Corrupt
	case errors.Is(err, cache.ErrFull):
		return wire.NoRoom
	case errors.Is(err, errOvertaken):
		return wire.NoLease
	case errors.Is(err, errOrder):
		return wire.WrongUse
	}
	return wire.Internal
}

// keep gives a lease back, or keeps it.
func (c *conn) keep(m *wire.Message) error {
	lease, err := wire.ParseNumber(m.Payload)
	if err != nil {
		return err
	}
	s := c.server
	s.mu.Lock()
	f := c.leases[lease]
	if f != nil && m.Type == wire.Abandon {
		s.revoke(f, "its holder gave it back")
	} else if f != nil {
		s.renew(f)
	}
	s.mu.Unlock()
	if f == nil {
		return c.fail(m.Request, wire.NoLease, "")
	}
	return c.done(m.Request)
}
