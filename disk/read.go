package disk

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// A piece is a run of bytes of the disk that one step of a read handles: part
// of one frame, or part of a hole.
type piece struct {
	round int64 // data ends at a multiple of this; 1 for reads, a power of two

	hole  bool
	n     int64  // bytes
	frame uint32 // of the chunk
	from  int    // first byte in the frame

	// The chunk that was looked up last, kept while pieces follow in it.
	known bool
	pos   int // position in the map
	chunk blockmap.Chunk
}

// locate sets p to the piece at off. It ends before end.
func (d *Disk) locate(p *piece, off, end int64) {
	log2 := d.info.ChunkLog2
	index := uint32(off >> log2)
	if !p.known || p.chunk.Index != index {
		pos, found := d.m.Search(index)
		if !found {
			next := end // where the next chunk begins
			if pos < d.m.Len() {
				next = min(end, int64(d.m.Chunk(pos).Index)<<log2)
			}
			p.known, p.hole, p.n = false, true, next-off
			return
		}
		p.known, p.pos, p.chunk = true, pos, d.m.Chunk(pos)
	}
	start := int64(index) << log2
	in, size := off-start, (int64(p.chunk.Size)+p.round-1)&^(p.round-1)
	if in >= size {
		p.hole, p.n = true, min(end, start+d.info.ChunkSize())-off
		return
	}
	p.hole = false
	p.frame = uint32(in >> d.info.FrameLog2)
	first := int64(p.frame) << d.info.FrameLog2
	last := min(first+1<<d.info.FrameLog2, size)
	p.from, p.n = int(in-first), min(end-off, last-in)
}

// key names a frame of c by all that the block map says of it.
func (d *Disk) key(c *blockmap.Chunk, frame uint32) frameKey {
	return frameKey{id: c.ID, key: c.Key, frame: frame, size: c.Size, log2: uint32(d.info.FrameLog2)}
}

// ReadAt implements [blockdev.Device]. A read past the end returns what there
// is and io.EOF. A read whose bytes cannot be had within Options.Timeout, and
// at most as long again for a place in the window, fails; n then counts the
// good bytes before the first bad one. Reads of cached frames allocate
// nothing.
func (d *Disk) ReadAt(b []byte, off int64) (n int, err error) { return d.ReadFor("", b, off) }

// ReadFor is ReadAt for who wants to be named where the read turns out slow.
func (d *Disk) ReadFor(reader string, b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read disk at %d: negative offset", off)
	}
	if d.closed.Load() {
		return 0, ErrClosed
	}
	timed, begun := d.stats.reads.Add(1)%memorySample == 0, time.Time{}
	if off >= d.info.Size {
		return 0, io.EOF
	}
	short := int64(len(b)) > d.info.Size-off
	if short {
		b = b[:d.info.Size-off]
	}
	if timed {
		begun = time.Now()
	}
	n = d.readMemory(b, off)
	if n < len(b) {
		var m int
		m, err = d.readFetch(reader, b, n, off)
		n += m
	} else if timed {
		d.opt.Meter.tiers[chunk.Memory].reads.Add(time.Since(begun), memorySample)
	}
	d.stats.bytes.Add(int64(n))
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// readMemory reads holes and cached frames, up to the first miss.
func (d *Disk) readMemory(b []byte, off int64) (n int) {
	p := piece{round: 1}
	end, hits := off+int64(len(b)), int64(0)
	for n < len(b) {
		d.locate(&p, off+int64(n), end)
		dst := b[n:][:p.n]
		if p.hole {
			clear(dst)
		} else {
			key := d.key(&p.chunk, p.frame)
			f := d.memory.get(&key)
			if f == nil {
				break
			}
			copy(dst, f.data[p.from:])
			f.release()
			d.touch(&p)
			hits++
		}
		n += len(dst)
	}
	d.stats.hits.Add(hits)
	return n
}

// A wait is a piece of a read whose frame is on its way.
type wait struct {
	flight *flight
	pos    int // of the chunk in the map
	frame  uint32
	from   int
	dst    []byte
	at     int   // of dst in the read
	err    error // why it was in vain
}

// readFetch reads what memory may lack: all of b, a read at off, from byte have on.
func (d *Disk) readFetch(reader string, b []byte, have int, off int64) (n int, err error) {
	miss := missed{reader: reader, off: off, length: len(b), begun: time.Now(), tier: chunk.Memory}
	b, off = b[have:], off+int64(have)
	for n < len(b) && err == nil {
		var m int
		m, err = d.readBatch(&miss, b[n:], off+int64(n))
		n += m
	}
	if errors.Is(err, ErrClosed) {
		return n, err
	}
	if err != nil {
		d.stats.errors.Add(1)
		if errors.Is(err, ErrTimedOut) {
			d.stats.hung.Add(1)
		}
	}
	d.done(&miss, err)
	return n, err
}

// A later is a piece of a read that will be near once a wait before it is over.
type later struct {
	piece piece
	dst   []byte
	at    int // of dst in the read
}

// readBatch reads up to maxWaits missing frames. It asks for all of them
// before it waits for the first, and waits for all even if one fails, since
// they are pinned for it. Of a chunk that can be read by the page once a reader has
// it in its hands, it asks for the first frame alone, and reads the rest from there: one
// question, one flight and no memory instead of one a frame. If it is not there after
// all, the rest is asked for as well.
func (d *Disk) readBatch(miss *missed, b []byte, off int64) (n int, err error) {
	p := piece{round: 1}
	var waits []wait
	var rest []later
	end, begun := off+int64(len(b)), time.Now()
	for n < len(b) && len(waits)+len(rest) < maxWaits {
		d.locate(&p, off+int64(n), end)
		dst := b[n:][:p.n]
		if p.hole {
			clear(dst)
		} else if len(waits) > 0 && d.brings(&waits[len(waits)-1], &p) {
			rest = append(rest, later{p, dst, n})
		} else if waits, err = d.want(miss, waits, &p, dst, n); err != nil {
			break
		}
		n += len(dst)
	}
	n, err = d.awaitAll(miss, waits, off, begun, n, err)
	if len(rest) == 0 {
		return n, err
	}
	waits, begun = waits[:0], time.Now()
	for i := range rest {
		r := &rest[i]
		if r.at >= n { // behind what failed
			break
		}
		var wantErr error
		if waits, wantErr = d.want(miss, waits, &r.piece, r.dst, r.at); wantErr != nil {
			n, err = r.at, wantErr
			break
		}
	}
	return d.awaitAll(miss, waits, off, begun, n, err)
}

// brings reports whether p is near when w, of the read's pieces before it, is over.
func (d *Disk) brings(w *wait, p *piece) bool {
	u := &w.flight.unit
	return u.pos == p.pos && u.frame != wholeChunk && u.frame != p.frame && d.byPage(&p.chunk)
}

// want reads p, the piece at byte at of a read, if it is at hand, and else adds a wait
// for it.
func (d *Disk) want(miss *missed, waits []wait, p *piece, dst []byte, at int) ([]wait, error) {
	if d.readNear(p, dst) {
		miss.tier = max(miss.tier, chunk.HostCache)
		d.touch(p)
		return waits, nil
	}
	w := wait{pos: p.pos, frame: p.frame, from: p.from, dst: dst, at: at}
	var f *frame
	var err error
	if w.flight, f, err = d.join(p); err != nil {
		return waits, err
	}
	if f != nil {
		w.copy(f)
		d.touch(p)
		return waits, nil
	}
	return append(waits, w), nil
}

// awaitAll waits for all waits of a batch, begun then, of which n bytes were read or asked
// for, until err. It returns how many bytes are good before the first that is not.
func (d *Disk) awaitAll(miss *missed, waits []wait, off int64, begun time.Time, n int, err error) (int, error) {
	for i := range waits {
		w := &waits[i]
		var f *frame
		if f, w.err = d.await(w.flight, w.frame); w.err == nil {
			w.copy(f)
			if !d.marks.touched(w.pos, w.frame) {
				d.touchFirst(w.pos, w.frame, begun, time.Since(begun))
			}
		} else if w.at < n {
			n, err = w.at, w.err
		}
	}
	d.waited(miss, waits, off, err != nil)
	if err == nil {
		d.goOn(waits)
	}
	return n, err
}

// copy takes the bytes out of f, and gives up its reference.
func (w *wait) copy(f *frame) {
	copy(w.dst, f.data[w.from:])
	f.release()
}
