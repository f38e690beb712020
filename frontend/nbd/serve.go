package nbd

import (
	"errors"
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

const (
	pieceBytes = 1 << 20 // a longer read is answered in chunks, where the client can
	maxRuns    = 64      // holes and data of one read that are told apart
	minHole    = 4 << 10 // shorter holes are sent as data
)

// A run is a part of a read that is answered by one kind of chunk.
type run struct {
	off, n int64
	hole   bool
}

// A worker is a goroutine that serves requests of one connection. What it needs
// for one is kept for the next.
type worker struct {
	c       *conn
	read    readLayout
	status  statusList
	addRun  func(blockdev.Extent) bool // read.add, made once
	addStat func(blockdev.Extent) bool // status.add, made once
}

func newWorker(c *conn) *worker {
	w := &worker{c: c}
	w.addRun = w.read.add
	w.addStat = w.status.add
	return w
}

// serve answers t. It posts the reply and does not flush it.
func (w *worker) serve(t task, ch charge) {
	c, r, errno := w.c, t.Request, t.errno
	switch {
	case errno != 0:
	case r.Writes():
		w.change(t, ch)
		return
	case r.Command == wire.CmdFlush:
		errno = w.flush(r)
	case r.Command == wire.CmdRead && c.structured:
		w.readChunks(r, ch)
		return
	case r.Command == wire.CmdRead:
		w.readSimple(r, ch)
		return
	case r.Command == wire.CmdBlockStatus:
		w.blockStatus(r, ch)
		return
	case r.Command == wire.CmdCache:
		if err := blockdev.Prefetch(c.ctx, c.exp.Device, int64(r.Offset), int64(r.Length)); err != nil {
			errno = c.deviceError("prefetch", r, err)
		}
	}
	w.answer(r, errno, ch)
}

// answer posts a reply without content.
func (w *worker) answer(r wire.Request, errno wire.Errno, ch charge) {
	b := getBuffer(wire.ErrorSize)
	n := wire.SimpleReplySize
	if w.c.structured && r.Command == wire.CmdRead || r.Command == wire.CmdBlockStatus && errno != 0 && w.c.structured {
		wire.PutError(b.b, r.Cookie, errno)
		n = wire.ErrorSize
	} else {
		wire.PutSimpleReply(b.b, errno, r.Cookie)
	}
	if errno != 0 {
		w.c.srv.stats.failed.Add(1)
	}
	w.c.out.post(message{b, 0, n, ch})
}

// readSimple answers a read whose client takes one header and all the data.
func (w *worker) readSimple(r wire.Request, ch charge) {
	n := headroom + int(r.Length)
	b := getBuffer(n)
	if err := w.c.readDevice(b.b[headroom:n], int64(r.Offset)); err != nil {
		b.free()
		w.answer(r, w.c.deviceError("read", r, err), ch)
		return
	}
	from := headroom - wire.SimpleReplySize
	wire.PutSimpleReply(b.b[from:], 0, r.Cookie)
	w.c.out.post(message{b, from, n, ch})
}

// readChunks answers a read by chunks of data and holes; where the client
// wants one chunk, by one.
func (w *worker) readChunks(r wire.Request, ch charge) {
	limit := int64(pieceBytes)
	if r.Flags&wire.CmdFlagDF != 0 {
		limit = int64(r.Length)
	}
	runs := w.read.plan(w, r)
	for i := range runs {
		left := runs[i]
		for left.n > 0 {
			part := run{left.off, left.n, left.hole}
			if !part.hole {
				part.n = min(part.n, limit)
			}
			left.off, left.n = left.off+part.n, left.n-part.n
			last := i == len(runs)-1 && left.n == 0
			var ok bool
			if ch, ok = w.postRun(r, part, last, ch); !ok {
				return
			}
		}
	}
}

// postRun answers one part of a read. ch is what the request was charged and no
// part has taken yet; a part that finds it too small charges what it needs. It
// returns what is left of it, and false when no further part may follow.
func (w *worker) postRun(r wire.Request, part run, last bool, ch charge) (charge, bool) {
	if part.hole {
		b := getBuffer(wire.HoleSize)
		wire.PutHole(b.b, r.Cookie, uint64(part.off), uint32(part.n), last)
		owed := charge{}
		if last {
			owed, ch = ch, charge{}
		}
		w.c.out.post(message{b, 0, wire.HoleSize, owed})
		return ch, true
	}
	owed, slot := ch, ch.slot
	if ch.floor+ch.shared < part.n {
		w.c.out.flush(0)
		var ok bool
		if owed, ok = w.c.budget.take(part.n); !ok {
			w.c.budget.give(ch)
			return charge{}, false
		}
	}
	owed.slot = false
	n := headroom + int(part.n)
	b := getBuffer(n)
	if err := w.c.readDevice(b.b[headroom:n], part.off); err != nil {
		b.free()
		owed.slot = slot
		w.answer(r, w.c.deviceError("read", r, err), owed)
		return charge{}, false
	}
	from := headroom - wire.DataPrefixSize
	wire.PutData(b.b[from:], r.Cookie, uint64(part.off), uint32(part.n), last)
	owed.slot = slot && last
	w.c.out.post(message{b, from, n, owed})
	return charge{slot: slot && !last}, true
}

// readDevice fills p from the device.
func (c *conn) readDevice(p []byte, off int64) error {
	n, err := c.exp.Device.ReadAt(p, off)
	if n == len(p) && (err == nil || errors.Is(err, io.EOF)) {
		c.srv.stats.bytes.Add(int64(n))
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// deviceError logs err and returns the number the client gets.
func (c *conn) deviceError(op string, r wire.Request, err error) wire.Errno {
	if errors.Is(err, blockdev.ErrLeft) {
		c.abort() // without an answer, so that the client connects again and asks the next
	}
	if c.ctx.Err() != nil || c.drain.Load() {
		return wire.ESHUTDOWN
	}
	c.srv.stats.deviceErrors.Add(1)
	c.srv.log.Error("nbd: device failed", "export", c.exp.Name,
		"err", fmt.Errorf("%s %d bytes at %d: %w", op, r.Length, r.Offset, err))
	return errnoOf(err)
}

// A readLayout is the list of runs that answers one read.
type readLayout struct {
	runs []run
}

// plan lays r out: as one run of data, unless the device knows better.
func (l *readLayout) plan(w *worker, r wire.Request) []run {
	off, n := int64(r.Offset), int64(r.Length)
	l.runs = l.runs[:0]
	if w.c.exp.extents && n >= minHole {
		err := blockdev.Extents(w.c.ctx, w.c.exp.Device, off, n, w.addRun)
		if err != nil { // the read itself will tell
			l.runs = l.runs[:0]
		}
	}
	end := off
	if len(l.runs) > 0 {
		last := l.runs[len(l.runs)-1]
		end = last.off + last.n
	}
	if end < off+n {
		l.push(run{end, off + n - end, false})
	}
	if r.Flags&wire.CmdFlagDF != 0 && len(l.runs) > 1 {
		l.runs = append(l.runs[:0], run{off, n, false})
	}
	return l.runs
}

func (l *readLayout) add(e blockdev.Extent) bool {
	l.push(run{e.Offset, e.Length, e.Hole && e.Length >= minHole})
	return len(l.runs) < maxRuns
}

// push adds a run to the list, or to the run before it if both are data.
func (l *readLayout) push(r run) {
	if k := len(l.runs) - 1; k >= 0 && l.runs[k].hole == r.hole {
		l.runs[k].n += r.n
		return
	}
	l.runs = append(l.runs, r)
}
