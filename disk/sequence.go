package disk

import (
	"sync"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// Tuning of what is decoded ahead of reads that go on and on, in frames.
const (
	streams     = 8  // that are told apart: a walk reads directories, inodes and files at once
	streamGap   = 4  // that a stream may leap over: slack behind small files, half a chunk
	firstWindow = 2  // decoded ahead of a stream when it has gone on once; doubles
	lastWindow  = 16 // and no more
)

// A sequence notices reads that miss one frame after the other, as those of a long file or
// of a directory's files do: they lie in a row on the disk.
type sequence struct {
	mu      sync.Mutex
	streams [streams]stream
	clock   uint64
}

// A stream is at next: all frames before it were missed, or have been asked for.
type stream struct {
	next   int64 // a frame, counted from the disk's first byte
	window int64 // what was asked for last
	used   uint64
}

// missed notes that a read had to wait for frames first to last. It returns how many behind last
// to ask for, and the number of their stream, for asked.
func (s *sequence) missed(first, last int64) (number int, ahead int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	oldest := 0
	for i := range s.streams {
		t := &s.streams[i]
		if t.used > 0 && first >= t.next-t.window && first <= t.next+streamGap {
			t.used = s.clock
			if last < t.next { // on its way already
				return i, 0
			}
			t.next = last + 1
			t.window = min(max(2*t.window, firstWindow), lastWindow)
			return i, t.window
		}
		if t.used < s.streams[oldest].used {
			oldest = i
		}
	}
	s.streams[oldest] = stream{next: last + 1, used: s.clock}
	return oldest, 0
}

// asked notes that the frames before next were asked for.
func (s *sequence) asked(number int, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.streams[number]
	t.next = max(t.next, next)
}

// goOn has the frames behind a read decoded that had to wait, if it goes on where others did. That
// is for chunks that are in the hands of Options.Near: to read ahead of them costs nothing but
// time of a processor that would be idle while the reader is busy with what it got. From
// elsewhere nothing is fetched that nobody has asked for.
func (d *Disk) goOn(waits []wait) {
	if d.opt.Near == nil || len(waits) == 0 {
		return
	}
	log2 := d.info.ChunkLog2 - d.info.FrameLog2
	at := func(w *wait) int64 { return int64(w.flight.chunk.Index)<<log2 | int64(w.frame) }
	last := &waits[len(waits)-1]
	begin := at(last) + 1
	stream, ahead := d.sequence.missed(at(&waits[0]), begin-1)
	end := begin + ahead
	for pos := last.pos; begin < end && pos < d.m.Len(); pos++ {
		c := d.m.Chunk(pos)
		start := int64(c.Index) << log2
		if start >= end {
			break
		}
		if !d.byPage(&c) { // else it is read from where it lies
			var frames Frames
			for i := max(begin, start); i < min(end, start+int64(d.frames(&c))); i++ {
				frames.Add(int(i - start))
			}
			if !d.inHand(&c, &frames) {
				break
			}
			d.queueSome(pos, &c, &frames)
		}
		begin = min(end, start+1<<log2)
	}
	d.sequence.asked(stream, begin)
}

// inHand reports whether Options.Near has those frames of a chunk, or is getting them: its header comes first.
func (d *Disk) inHand(c *blockmap.Chunk, frames *Frames) bool {
	ctx := d.ctx
	if d.frames(c) <= chunk.MaxExtract {
		ctx = chunk.WithExtract(ctx, chunk.Extract(frames[0]))
	}
	var b [1]byte
	n, err := d.opt.Near.ReadChunk(ctx, c.ID, b[:], 0)
	return err == nil && n == 1
}
