package disk

import (
	"context"
	"fmt"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

const (
	// Of a far chunk of which a Fetch wants so much it fetches all: one request
	// less is worth more than the bytes.
	wholeShare, wholeOf = 3, 4

	// fetchRounds bounds how often a Fetch begins anew because a flight of others
	// did not bring what it was to bring.
	fetchRounds = 4
)

// onwardFrom is how many frames right before one were read, and were missed, at least, when
// reads go on.
const onwardFrom = 2

// Brought is what a Fetch did.
type Brought struct {
	Frames int   // that it had brought, or found under way
	Bytes  int64 // stored bytes that came by its own fetches
	// From is the furthest tier that these needed; chunk.Nowhere, if there were none.
	From chunk.Tier
}

// Fetch brings frames of the chunk at a position of the block map to memory, before
// they are read: those that were not read yet, and that neither memory nor
// Options.Near has. It is served behind all reads, like Prefetch, but nothing is
// dropped: it returns when the frames are there, so the caller bounds how much is
// under way by the calls that it makes at once. Frames that follow each other come by
// one request, and such runs at once; of a far chunk that is wanted nearly whole, all
// comes by one.
//
// It returns when ctx ends; what is under way then goes on. The error is ErrClosed, of
// ctx, or why a fetch failed, after its retries.
func (d *Disk) Fetch(ctx context.Context, pos int, frames Frames) (Brought, error) {
	var b Brought
	if pos < 0 || pos >= d.m.Len() {
		return b, fmt.Errorf("fetch chunk %d ahead: the disk has %d", pos, d.m.Len())
	}
	c := d.m.Chunk(pos)
	for i := d.frames(&c); i < chunk.MaxFrames; i++ {
		if frames.Has(i) {
			return b, fmt.Errorf("fetch frame %d of chunk %d ahead: it has %d", i, pos, d.frames(&c))
		}
	}
	if d.isNear(&c) {
		return b, ctx.Err()
	}
	for range fetchRounds {
		own, others, n, err := d.beginFetch(pos, &c, &frames)
		if err != nil || own == nil && len(others) == 0 {
			return b, err
		}
		b.Frames = max(b.Frames, n)
		if own != nil {
			others = append(others, own)
		}
		for _, f := range others {
			select {
			case <-f.over:
			case <-ctx.Done():
				return b, ctx.Err()
			}
		}
		if own == nil {
			continue
		}
		d.mu.Lock()
		err = own.err
		d.mu.Unlock()
		b.Bytes += own.bytes.Load()
		b.From = max(b.From, own.trace.Reached())
		d.stats.aheadBytes.Add(own.bytes.Load())
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

// beginFetch begins a flight of those frames of the chunk at pos that nobody has or
// brings, and returns it, nil if there are none; the flights that bring the others;
// and how many frames all of them bring.
func (d *Disk) beginFetch(pos int, c *blockmap.Chunk, frames *Frames) (own *flight, others []*flight, n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Load() {
		return nil, nil, 0, ErrClosed
	}
	var lacking Frames
	for i := range d.frames(c) {
		key := d.key(c, uint32(i))
		if !frames.Has(i) || d.marks.touched(pos, uint32(i)) || d.memory.has(&key) {
			continue
		}
		n++
		f := d.fetching(pos, uint32(i))
		if f == nil {
			lacking.Add(i)
		} else if len(others) == 0 || others[len(others)-1] != f {
			others = append(others, f)
		}
	}
	u := unit{pos, someFrames}
	if d.unitOf(pos, c, 0).frame == wholeChunk && lacking.Len()*wholeOf >= d.frames(c)*wholeShare {
		u.frame = wholeChunk
	}
	if f := d.flights[u]; f != nil && lacking.Len() > 0 {
		others = append(others, f) // it has begun, for others; after it is our turn
	} else if lacking.Len() > 0 {
		own = d.newFlight(u, c, inBackground)
		own.wanted = lacking
		own.over = make(chan struct{})
		d.background = append(d.background, own)
		d.start()
	}
	for _, f := range others {
		if f.over == nil {
			f.over = make(chan struct{})
		}
	}
	return own, others, n, nil
}

// queueSome queues a flight of those frames of the chunk at pos that nobody has or brings, and
// none if there are no such frames, or one like it is under way.
func (d *Disk) queueSome(pos int, c *blockmap.Chunk, frames *Frames) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u := unit{pos, someFrames}
	if d.closed.Load() || d.flights[u] != nil || len(d.background) >= MaxBackground {
		return
	}
	var lacking Frames
	for i := range d.frames(c) {
		key := d.key(c, uint32(i))
		if frames.Has(i) && d.fetching(pos, uint32(i)) == nil && !d.memory.has(&key) {
			lacking.Add(i)
		}
	}
	if lacking.Len() == 0 {
		return
	}
	f := d.newFlight(u, c, inBackground)
	f.wanted, f.goesOn = lacking, true
	d.stats.prefetches.Add(1)
	d.background = append(d.background, f)
	d.start()
}

// onward returns the frames to fetch for a read of p where a request takes long: p's and, if
// the reads before went on through the chunk, as many as these were, of those that are
// lacking; none for p's alone. The caller holds mu.
func (d *Disk) onward(p *piece) (on Frames) {
	if !d.opt.Far || d.flights[unit{p.pos, someFrames}] != nil {
		return on
	}
	run := uint32(0)
	for run < p.frame && d.marks.get(p.pos, p.frame-run-1) == touchedMark {
		run++
	}
	if run < onwardFrom {
		return on
	}
	on.Add(int(p.frame)) // though another disk may have brought it to memory just now
	for i := p.frame + 1; i < min(p.frame+run, uint32(d.frames(&p.chunk))); i++ {
		key := d.key(&p.chunk, i)
		if d.fetching(p.pos, i) == nil && !d.memory.has(&key) {
			on.Add(int(i))
		}
	}
	return on
}

// LetGo drops from memory what Fetch has brought and nobody has read, and what it brings from
// now on for nobody: a start is over. It counts as used no more, whoever reads it then, unless there is
// a host cache (Options.Near), which keeps it.
func (d *Disk) LetGo() {
	d.ebb.Store(true)
	for pos := range d.m.Len() {
		c := d.m.Chunk(pos)
		for i := range uint32(d.frames(&c)) {
			if d.marks.get(pos, i) == aheadMark {
				key := d.key(&c, i)
				d.letGo(pos, i, &key)
			}
		}
	}
}

// letGo is LetGo of one frame.
func (d *Disk) letGo(pos int, i uint32, key *frameKey) {
	d.memory.drop(key)
	if d.opt.Near == nil {
		d.marks.forget(pos, i)
	}
}

// fetching returns the flight that brings a frame of the chunk at pos, nil if there is
// none. The caller holds mu.
func (d *Disk) fetching(pos int, frame uint32) *flight {
	if f := d.flights[unit{pos, wholeChunk}]; f != nil {
		return f
	}
	if f := d.flights[unit{pos, someFrames}]; f != nil && f.wanted.Has(int(frame)) {
		return f
	}
	return d.flights[unit{pos, frame}]
}

// A run are frames of a chunk that follow each other, from first to before end.
type run struct{ first, end uint32 }

// runs picks the frames that f fetches now: wanted ones that neither the flight nor
// memory has, by runs, those first that a read waits for. When there are none it takes f
// out of the table, as next does.
func (d *Disk) runs(f *flight, list []run) []run {
	d.mu.Lock()
	defer d.mu.Unlock()
	list = list[:0]
	urgent := 0
	open := false // the last of list ends here
	for i := range uint32(len(f.slots)) {
		key := d.key(&f.chunk, i)
		lacks := f.wanted.Has(int(i)) && f.slots[i].frame == nil && (f.slots[i].waits > 0 || !d.memory.has(&key))
		switch {
		case !lacks:
			open = false
			continue
		case !open:
			list = append(list, run{first: i})
			open = true
		}
		last := len(list) - 1
		list[last].end = i + 1
		if f.slots[i].waits > 0 && last >= urgent {
			list[urgent], list[last] = list[last], list[urgent]
			open = last == urgent
			urgent++
		}
	}
	if len(list) == 0 {
		d.leave(f)
	}
	return list
}
