package cached

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache"
)

// A stage is where a flight is.
type stage int

const (
	looking    stage = iota // is it in the cache by now, does the zone have it
	leased                  // a client is to say how it is had
	fetching                // the daemon downloads it
	depositing              // a client brings it
	ended                   // out of the table
)

// A flight is how one chunk comes into the cache. Server.mu guards all of it.
type flight struct {
	id       chunk.ID
	by       *conn // whose Get began it; nil: out of the table
	stage    stage
	waiters  []*waiter // in the order in which they came
	tries    int       // leases that came to nothing
	last     string    // why the last one did
	priority *chunk.Urgency
	way      way // that the chunk takes

	want  chunk.Extract // frames that those want who want no more
	whole bool          // somebody wants the chunk
	head  int64         // bytes of its header, as those say who want that; 0: nobody did

	lease  uint64 // 0: none
	holder *conn
	timer  *time.Timer // ends the lease
	hold   time.Time   // when it ends however it is kept

	deposit *cache.Deposit // nil: none
	busy    bool           // a goroutine works on deposit, and ends it if the flight has gone on
}

// A waiter is a Get that waits.
type waiter struct {
	conn    *conn
	request uint64
	flight  *flight
	end     int64         // bytes from the object's begin on that must be checked; 0: all
	extract chunk.Extract // frames that must be there; 0: end says it
	timer   *time.Timer
}

// Refusals of those who wait.
var (
	closing = wire.Refusal{Reason: wire.Closing, Text: "the host cache ends"}
	tooLong = wire.Refusal{Reason: wire.Waited, Text: "it took too long"}
	tooBusy = wire.Refusal{Reason: wire.Busy, Text: "too many downloads wait"}
	noRoom  = wire.Refusal{Reason: wire.NoRoom, Text: "there is no room in the cache"}
)

// refusal makes a refusal of the daemon's own trouble.
func refusal(err error) wire.Refusal { return wire.Refusal{Reason: wire.Internal, Text: err.Error()} }

// join has a Get wait for the flight of its chunk, begun if there is none.
func (s *Server) join(c *conn, request uint64, want *wire.Want) {
	w := &waiter{conn: c, request: request, extract: want.Extract}
	if want.Len > 0 && want.Extract == 0 {
		w.end = int64(want.Off) + int64(want.Len)
	}
	wait := min(time.Duration(want.WaitMillis)*time.Millisecond, s.wait)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.gone {
		return
	}
	if s.closed {
		w.refuse(closing)
		return
	}
	f := s.flights[want.ID]
	begins := f == nil
	if begins {
		if c.begun >= Outstanding { // its waiters may have gone, and looks and downloads go on
			w.refuse(tooBusy)
			return
		}
		f = &flight{id: want.ID, by: c, priority: chunk.NewUrgency(want.Priority)}
		s.flights[f.id] = f
		c.begun++
		s.stats.flights.Add(1)
	} else {
		s.stats.waits.Add(1)
		f.priority.Raise(want.Priority)
		if s.serve(f, w) {
			return
		}
	}
	w.flight = f
	f.waiters = append(f.waiters, w)
	f.wants(w)
	if want.Extract != 0 && want.Off == 0 {
		f.head = int64(want.Len)
	}
	c.waiters[w] = struct{}{}
	w.timer = time.AfterFunc(wait, func() { s.timeOut(w) })
	if begins {
		s.look(f)
	}
}

// wants notes what w waits for. mu is held.
func (f *flight) wants(w *waiter) {
	f.want |= w.extract
	f.whole = f.whole || w.extract == 0
}

// refuse answers with a Miss.
func (w *waiter) refuse(r wire.Refusal) {
	w.conn.server.stats.misses.Add(1)
	w.conn.later(answer{request: w.request, kind: wire.Miss, payload: r.Append})
}

// forget takes a waiter out of its flight. mu is held.
func (s *Server) forget(w *waiter) {
	if w.timer != nil {
		w.timer.Stop()
	}
	delete(w.conn.waiters, w)
	if f := w.flight; f != nil {
		for i := range f.waiters {
			if f.waiters[i] == w {
				f.waiters = append(f.waiters[:i], f.waiters[i+1:]...)
				break
			}
		}
	}
	w.flight = nil
}

// timeOut answers a waiter that has waited long enough.
func (s *Server) timeOut(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.flight == nil {
		return
	}
	s.forget(w)
	s.stats.timeouts.Add(1)
	w.refuse(tooLong)
}

// offer gives the lease to whoever waits longest. If nobody waits, or too many
// have tried, the flight ends. mu is held.
func (s *Server) offer(f *flight) {
	if f.tries >= maxTries || s.closed {
		s.giveUp(f, wire.Refusal{Reason: wire.NoOrigin, Text: f.last})
		return
	}
	if len(f.waiters) == 0 {
		s.remove(f)
		return
	}
	w := f.waiters[0]
	s.forget(w)
	s.lastLease++
	f.stage, f.lease, f.holder = leased, s.lastLease, w.conn
	f.way.ask(chunk.Origin) // by a request that begins it anew, or the holder does
	f.hold = time.Now().Add(maxHold * s.lease)
	s.leases[f.lease] = f
	w.conn.leases[f.lease] = f
	lease := f.lease
	f.timer = time.AfterFunc(s.lease, func() { s.expire(lease) })
	s.stats.leases.Add(1)
	right := wire.Right{Lease: lease, Millis: uint32(s.lease / time.Millisecond)}
	w.conn.later(answer{request: w.request, kind: wire.Lease, payload: right.Append})
}

// expire ends a lease that was not used in time.
func (s *Server) expire(lease uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.leases[lease]; f != nil {
		s.stats.expired.Add(1)
		s.revoke(f, "its holder did nothing")
	}
}

// renew puts off the end of a lease. mu is held.
func (s *Server) renew(f *flight) {
	f.timer.Reset(min(s.lease, max(0, time.Until(f.hold))))
}

// unlease ends f's lease. mu is held.
func (s *Server) unlease(f *flight) {
	if f.lease == 0 {
		return
	}
	f.timer.Stop()
	delete(s.leases, f.lease)
	delete(f.holder.leases, f.lease)
	f.lease, f.holder = 0, nil
}

// revoke takes the lease from its holder and gives it to the next. mu is held.
func (s *Server) revoke(f *flight, why string) {
	s.unlease(f)
	s.fall(f, errors.New(why))
}

// fall goes on after an attempt that came to nothing. mu is held.
func (s *Server) fall(f *flight, why error) {
	f.way.failed(why)
	s.letGo(f)
	f.tries++
	f.last = why.Error()
	s.offer(f)
}

// letGo has f's deposit aborted. mu is held.
func (s *Server) letGo(f *flight) {
	d := f.deposit
	f.deposit = nil
	if d != nil && !f.busy { // else whoever works on it does
		s.running.Add(1)
		go func() {
			defer s.running.Done()
			d.Abort()
		}()
	}
	f.busy = false
}

// remove takes f out of the table. mu is held.
func (s *Server) remove(f *flight) {
	s.unlease(f)
	s.letGo(f)
	f.stage = ended
	if f.by == nil {
		return
	}
	f.by.begun--
	f.by = nil
	delete(s.flights, f.id)
}

// giveUp ends a flight; whoever waits reads elsewhere. mu is held.
func (s *Server) giveUp(f *flight, why wire.Refusal) {
	s.remove(f)
	for len(f.waiters) > 0 {
		w := f.waiters[0]
		s.forget(w)
		w.refuse(why)
	}
}

// serve answers w if what it wants is checked already. mu is held.
func (s *Server) serve(f *flight, w *waiter) bool {
	d := f.deposit
	if d == nil || d.Extract() != 0 { // that is answered when it is there
		return false
	}
	checked := d.Checked()
	if checked == 0 || w.end == 0 && checked < d.Size() || checked < min(w.end, d.Size()) {
		return false
	}
	file, err := duplicate(d.File())
	if err != nil {
		w.refuse(refusal(err))
		return true
	}
	held, kind := wire.Held{Size: uint32(d.Size()), Checked: uint32(checked), Steps: f.way.steps(checked)}, wire.Part
	if checked == d.Size() {
		kind = wire.Hit
	}
	s.stats.parts.Add(1)
	w.conn.later(answer{
		request: w.request, kind: kind, payload: held.Append,
		file: file, release: func() { _ = file.Close() },
	})
	return true
}

// advance answers those whose bytes are checked by now, and reports whether there were
// any. mu is held.
func (s *Server) advance(f *flight) (served bool) {
	for i := 0; i < len(f.waiters); {
		w := f.waiters[i]
		if !s.serve(f, w) {
			i++
			continue
		}
		s.forget(w)
		served = true
	}
	return served
}

// land ends a flight whose chunk, or an extract of it, is in the cache, and open: the
// caller has a handle. If somebody waits for frames that are not there, it goes on.
func (s *Server) land(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.deposit, f.busy = nil, false
	for i := 0; i < len(f.waiters); {
		w := f.waiters[i]
		own, err := s.cache.Acquire(f.id) // which therefore opens nothing
		if err == nil && !suffices(own, w.extract) {
			own.Release()
			i++
			continue
		}
		s.forget(w)
		if err != nil {
			w.refuse(refusal(err))
			continue
		}
		w.conn.later(hit(w.request, own, f.way.steps(own.Size())))
	}
	if len(f.waiters) == 0 || s.closed {
		s.giveUp(f, closing)
		return
	}
	s.unlease(f)
	f.want, f.whole, f.way = 0, false, way{}
	for _, w := range f.waiters {
		f.wants(w)
	}
	s.offer(f)
}

// suffices reports whether what h has answers a Get of those frames. One that names none
// gets what there is: who gets it sees by the header what it lacks.
func suffices(h *cache.Handle, wanted chunk.Extract) bool {
	return wanted == 0 || h.Extract().Covers(wanted)
}

// hit is the answer with a handle, which it gives back, of a chunk that took these
// steps to be had.
func hit(request uint64, h *cache.Handle, steps []wire.Step) answer {
	held := wire.Held{Size: uint32(h.Size()), Checked: uint32(h.Size()), Extract: h.Extract(), Steps: steps}
	return answer{request: request, kind: wire.Hit, payload: held.Append, file: h.File(), release: h.Release}
}

// duplicate returns a descriptor of the same open file, which the caller closes.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate a descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
