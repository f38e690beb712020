package nbd

import (
	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// maxStatus bounds the runs in one block status reply, a context. A client asks
// again for what is missing.
const maxStatus = 2048

// A metaContext is one kind of block status that a client may ask for. Its ID
// on the wire is its place in the list of all.
type metaContext struct {
	id    uint32
	name  string
	flags func(blockdev.Extent) uint32
}

var metaContexts = []metaContext{
	{1, wire.ContextAllocation, func(e blockdev.Extent) uint32 {
		if e.Hole {
			return wire.StateHole | wire.StateZero
		}
		return 0
	}},
	{2, wire.ContextLocal, func(e blockdev.Extent) uint32 {
		if e.Local {
			return 0
		}
		return wire.StateRemote
	}},
}

// A statusList gathers the runs of one block status reply, for each context the
// client has chosen.
type statusList struct {
	contexts []metaContext
	runs     [][]wire.Status // by context; capacity is kept
	full     []bool
	limit    int
}

func (l *statusList) reset(contexts []metaContext, limit int) {
	l.contexts, l.limit = contexts, limit
	for len(l.runs) < len(contexts) {
		l.runs = append(l.runs, nil)
		l.full = append(l.full, false)
	}
	for i := range l.runs {
		l.runs[i], l.full[i] = l.runs[i][:0], false
	}
}

// add adds an extent to every context that has room, and reports whether any
// has.
func (l *statusList) add(e blockdev.Extent) bool {
	more := false
	for i, m := range l.contexts {
		if l.full[i] {
			continue
		}
		flags := m.flags(e)
		runs := l.runs[i]
		switch k := len(runs) - 1; {
		case k >= 0 && runs[k].Flags == flags:
			runs[k].Length += uint32(e.Length)
		case len(runs) < l.limit:
			l.runs[i] = append(runs, wire.Status{Length: uint32(e.Length), Flags: flags})
		default:
			l.full[i] = true
			continue
		}
		more = true
	}
	return more
}

// statusLimit returns how many runs the answer to r may have, a context.
func statusLimit(r wire.Request) int {
	if r.Flags&wire.CmdFlagReqOne != 0 {
		return 1
	}
	return maxStatus
}

// statusBytes bounds the length of the answer to r.
func statusBytes(r wire.Request, contexts int) int64 {
	return int64(contexts * (wire.ChunkHeaderSize + 4 + statusLimit(r)*wire.StatusEntrySize))
}

// blockStatus answers a BLOCK_STATUS request.
func (w *worker) blockStatus(r wire.Request, ch charge) {
	c, l := w.c, &w.status
	l.reset(c.contexts, statusLimit(r))
	err := blockdev.Extents(c.ctx, c.exp.Device, int64(r.Offset), int64(r.Length), w.addStat)
	size := 0
	for _, runs := range l.runs[:len(c.contexts)] {
		if len(runs) == 0 && err == nil {
			err = errNoExtents
		}
		size += wire.ChunkHeaderSize + 4 + len(runs)*wire.StatusEntrySize
	}
	if err != nil {
		w.answer(r, c.deviceError("list extents of", r, err), ch)
		return
	}
	b := getBuffer(size)
	out := b.b[:0]
	for i, m := range c.contexts {
		out = wire.AppendStatus(out, r.Cookie, m.id, l.runs[i], i == len(c.contexts)-1)
	}
	c.out.post(message{b, 0, len(out), ch})
}
