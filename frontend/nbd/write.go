package nbd

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// A task is a request that has been read, as workers serve it.
type task struct {
	wire.Request
	errno   wire.Errno // the answer, if it needs no device
	payload *buffer    // of a write: its first Length bytes; the task's
	write   *longWrite // that this is a part of, or nil
}

// A longWrite is a write of more than pieceBytes. Its client may take its time
// to send it, so memory for it is taken by the piece. Each piece is served as a
// request of its own; the last to be through answers.
type longWrite struct {
	rest  wire.Request  // what is not received yet; the leader's
	left  atomic.Int64  // bytes that are not served yet
	errno atomic.Uint32 // of the first piece that failed
}

var longWrites = sync.Pool{New: func() any { return new(longWrite) }}

// split makes a write that is too long for one piece the connection's long
// write, and returns what is to be served first. It is the leader's.
func (c *conn) split(r wire.Request) task {
	if r.Length <= pieceBytes {
		return task{Request: r}
	}
	l := longWrites.Get().(*longWrite)
	l.rest = r
	l.left.Store(int64(r.Length))
	l.errno.Store(0)
	c.long = l
	return c.piece()
}

// piece takes the next piece off the connection's long write. It is the leader's.
func (c *conn) piece() task {
	l := c.long
	t := task{Request: l.rest, write: l}
	t.Length = min(l.rest.Length, pieceBytes)
	l.rest.Offset += uint64(t.Length)
	if l.rest.Length -= t.Length; l.rest.Length == 0 {
		c.long = nil
	}
	return t
}

// receive reads the payload of t, a write that has been admitted. It returns
// false when the connection is over; t has no buffer then.
func (c *conn) receive(t *task) bool {
	b := getBuffer(int(t.Length))
	p := b.b[:t.Length]
	n := copy(p, c.in[c.inFrom:c.inTo])
	c.inFrom += n
	if n < len(p) {
		c.out.flush(0)
		if err := c.stream.readFull(p[n:]); err != nil {
			b.free()
			c.readFailed(err)
			return false
		}
	}
	t.payload = b
	return true
}

// change serves a request that writes, and answers it.
func (w *worker) change(t task, ch charge) {
	d := w.c.exp.writer
	off, n := int64(t.Offset), int64(t.Length)
	var op string
	var err error
	switch {
	case t.Command == wire.CmdWrite:
		op = "write"
		_, err = d.WriteAt(t.payload.b[:n], off)
		t.payload.free()
		w.c.srv.stats.written.Add(n)
	case t.Command == wire.CmdWriteZeroes && t.Flags&wire.CmdFlagNoHole != 0:
		op = "write zeroes to"
		err = d.WriteZeroes(off, n)
	default: // what a device discards reads as zeros
		op = "discard"
		err = d.Discard(off, n)
	}
	errno := wire.Errno(0)
	if err != nil {
		errno = w.c.deviceError(op, t.Request, err)
	}
	if l := t.write; l != nil {
		if errno != 0 {
			l.errno.CompareAndSwap(0, uint32(errno))
		}
		if l.left.Add(-n) > 0 {
			w.c.budget.give(ch)
			return
		}
		errno = wire.Errno(l.errno.Load())
		longWrites.Put(l)
	}
	if errno == 0 && t.Flags&wire.CmdFlagFUA != 0 {
		errno = w.flush(t.Request)
	}
	w.answer(t.Request, errno, ch)
}

// flush brings to the medium what has been written, on all connections.
func (w *worker) flush(r wire.Request) wire.Errno {
	if w.c.exp.writer == nil {
		return 0
	}
	if err := w.c.exp.writer.Flush(); err != nil {
		return w.c.deviceError("flush", r, err)
	}
	return 0
}

// flushes reports whether serving t waits for the medium.
func (t *task) flushes(e *export) bool {
	return e.writer != nil && (t.Command == wire.CmdFlush || t.Writes() && t.Flags&wire.CmdFlagFUA != 0)
}

// errnoOf returns the number that a client gets for a device's error.
func errnoOf(err error) wire.Errno {
	if errors.Is(err, blockdev.ErrNoSpace) {
		return wire.ENOSPC
	}
	return wire.EIO
}
