package disk

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// Frames of units that are not one frame: a whole chunk, and those frames of it that
// a Fetch asked for.
const (
	wholeChunk = ^uint32(0)
	someFrames = wholeChunk - 1
)

// A unit is what one flight fetches: a chunk, by its position in the map, or
// one frame of it, or some.
type unit struct {
	pos   int
	frame uint32
}

// A state is a flight's place in its life; it only rises.
type state int

const (
	inBackground state = iota // queued by Prefetch or Fetch
	inDemand                  // queued, and a read waits
	started                   // has a goroutine
	ended                     // out of the table
)

// A flight is one fetch of one unit, with its retries.
type flight struct {
	unit    unit
	chunk   blockmap.Chunk
	urgency *chunk.Urgency // of what Prefetch or Fetch queued; nil: demand
	trace   chunk.Trace
	wanted  Frames       // of a unit of some frames
	goesOn  bool         // it was begun for reads that go on, and is of no start
	bytes   atomic.Int64 // stored bytes that came

	// Guarded by Disk.mu.
	state    state
	demanded time.Time     // when a read first asked; zero before
	launched time.Time     // when it began; the same
	err      error         // why frames are missing, once ended
	slots    []slot        // one a frame of the chunk
	changed  sync.Cond     // a slot got its frame, or the flight ended
	over     chan struct{} // closed when it has ended; nil: no Fetch waits for that
}

// A slot is the place of one frame in a flight.
type slot struct {
	frame *frame // decoded, with a reference that the flight owns; or nil
	waits int    // reads that wait for it or are about to take it
}

// unitOf returns the unit that holds a frame of c, the chunk at pos.
func (d *Disk) unitOf(pos int, c *blockmap.Chunk, frame uint32) unit {
	if d.opt.Mode == WholeChunks || d.opt.Whole != nil && d.opt.Whole(c.ID) {
		frame = wholeChunk
	}
	return unit{pos, frame}
}

// newFlight enters a flight into the table. The caller holds mu.
func (d *Disk) newFlight(u unit, c *blockmap.Chunk, s state) *flight {
	f := &flight{unit: u, chunk: *c, state: s}
	f.slots = make([]slot, d.frames(c))
	f.changed.L = &d.mu
	if s == inBackground {
		f.urgency = chunk.NewUrgency(chunk.Prefetch)
	}
	d.flights[u] = f
	return f
}

// ahead reports whether f was begun before anybody read what it brings.
func (f *flight) ahead() bool { return f.urgency != nil }

// frames returns how many frames c has.
func (d *Disk) frames(c *blockmap.Chunk) int {
	return int((int64(c.Size) + 1<<d.info.FrameLog2 - 1) >> d.info.FrameLog2)
}

// join returns the flight that brings p's frame, begun if there was none, with
// a place in it that await gives back. If the frame came to memory meanwhile
// it returns that, with a reference, instead.
func (d *Disk) join(p *piece) (*flight, *frame, error) {
	u, key := d.unitOf(p.pos, &p.chunk, p.frame), d.key(&p.chunk, p.frame)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Load() {
		return nil, nil, ErrClosed
	}
	if f := d.memory.get(&key); f != nil {
		d.stats.hits.Add(1)
		return nil, f, nil
	}
	d.stats.misses.Add(1)
	f := d.flights[u]
	if f == nil {
		f = d.fetching(p.pos, p.frame)
	}
	if f == nil {
		var on Frames
		if u.frame < someFrames {
			on = d.onward(p)
		}
		if on.Len() > 0 {
			u.frame = someFrames
		}
		f = d.newFlight(u, &p.chunk, inDemand)
		f.wanted = on
		d.demand = append(d.demand, f)
	} else {
		d.stats.waits.Add(1)
		if f.state == inBackground {
			at := slices.Index(d.background, f)
			d.background = slices.Delete(d.background, at, at+1)
			f.state = inDemand
			d.demand = append(d.demand, f)
		}
	}
	if f.demanded.IsZero() {
		f.demanded = time.Now()
		f.urgency.Raise(chunk.Demand) // wherever it waits behind the reader
	}
	f.slots[p.frame].waits++
	d.start()
	return f, nil, nil
}

// await gives back a place in f, and returns the frame with a reference for
// the caller, or why there is none.
func (d *Disk) await(f *flight, i uint32) (*frame, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &f.slots[i]
	for s.frame == nil && f.state != ended {
		f.changed.Wait()
	}
	s.waits--
	got := s.frame
	if got == nil {
		return nil, f.err
	}
	if f.state == ended && s.waits == 0 {
		s.frame = nil // the flight's reference becomes the caller's
	} else {
		got.refs.Add(1)
	}
	return got, nil
}

// start starts queued flights while the window has room. The caller holds mu.
func (d *Disk) start() {
	for d.active < d.opt.Fetches && len(d.demand) > 0 {
		f := d.demand[0]
		d.demand = d.demand[1:]
		d.launch(f)
	}
	for d.active < max(1, d.opt.Fetches/2) && len(d.background) > 0 {
		f := d.background[0]
		d.background = d.background[1:]
		d.launch(f)
	}
}

// launch gives a flight its goroutine. The caller holds mu.
func (d *Disk) launch(f *flight) {
	f.state = started
	f.launched = time.Now()
	begun := f.demanded
	if begun.IsZero() {
		begun = f.launched
	}
	d.active++
	d.stats.fetches.Add(1)
	d.running.Go(func() { d.fly(f, begun) })
}

// fly is the goroutine of a flight. A fetch that no read asked for fails in
// silence: the read that needs it will try again. One that a read joined when
// part of its time was gone gets the whole time anew, once.
func (d *Disk) fly(f *flight, begun time.Time) {
	err := d.fetch(f, begun.Add(d.opt.Timeout))
	d.mu.Lock()
	if again := f.demanded; err != nil && again.After(begun) {
		d.mu.Unlock()
		err = d.fetch(f, again.Add(d.opt.Timeout))
		d.mu.Lock()
	}
	if err == nil {
		d.stats.from[f.trace.Reached()].Add(1)
	}
	d.end(f, err)
	d.active--
	if !d.closed.Load() {
		d.start()
	}
	tell := err != nil && !d.closed.Load() && !f.demanded.IsZero()
	d.mu.Unlock()
	d.opt.Meter.fetched(&f.trace)
	if tell {
		d.opt.Logger.LogAttrs(d.ctx, slog.LevelError, "fetch failed",
			slog.String("disk", d.m.Digest().String()), slog.String("chunk", f.chunk.ID.String()), slog.Any("err", err))
	}
}

// deliver hands a decoded frame to memory and to whoever waits for it. The
// frame's reference becomes the flight's.
func (d *Disk) deliver(f *flight, i uint32, fr *frame) {
	key := d.key(&f.chunk, i)
	ahead := f.ahead() && !f.goesOn && f.wanted.Has(int(i))
	if ahead && d.marks.set(f.unit.pos, i, aheadMark) == 0 {
		d.stats.ahead.Add(1) // before a read can find it
	}
	if !ahead || !d.ebb.Load() {
		d.memory.add(&key, fr)
	}
	if ahead && d.ebb.Load() { // by now: then LetGo may have looked before it was there
		d.letGo(f.unit.pos, i, &key)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f.slots[i].frame = fr
	if f.slots[i].waits > 0 {
		f.changed.Broadcast()
	}
}

// end takes f out of the table and lets go of the frames that nobody waits
// for. The caller holds mu.
func (d *Disk) end(f *flight, err error) {
	f.state, f.err = ended, err
	d.leave(f)
	if f.over != nil {
		close(f.over)
	}
	for i := range f.slots {
		if s := &f.slots[i]; s.frame != nil && s.waits == 0 {
			s.frame.release()
			s.frame = nil
		}
	}
	f.changed.Broadcast()
}

// leave takes f out of the table, so that no read joins it any more. The
// caller holds mu.
func (d *Disk) leave(f *flight) {
	if d.flights[f.unit] == f {
		delete(d.flights, f.unit)
	}
}

// next picks the frame that f decodes now: one that a read waits for, or else
// the first that neither the flight nor memory has. When there is none it
// takes f out of the table at once: a frame that memory drops from now on is
// for another flight to bring.
func (d *Disk) next(f *flight) (i uint32, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range f.slots {
		if s := &f.slots[i]; s.frame == nil && s.waits > 0 {
			return uint32(i), true
		}
	}
	for i := range f.slots {
		key := d.key(&f.chunk, uint32(i))
		if f.slots[i].frame == nil && !d.memory.has(&key) {
			return uint32(i), true
		}
	}
	d.leave(f)
	return 0, false
}
