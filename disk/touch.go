package disk

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// A Touch is the first read of a frame since the disk was opened.
type Touch struct {
	Chunk  int           // position in the block map
	Frame  int           // of the chunk
	Begun  time.Time     // when the read came to it
	Waited time.Duration // that it waited for the frame; 0: that was at hand
}

// OnTouch has fn told of each frame that is read from now on and was not before, by
// whatever reads; nil: nobody is. It replaces who was told until then, and takes
// hold at once. fn runs in the goroutine of the read, any number at once, before that
// returns: it is quick, and blocks on nothing.
func (d *Disk) OnTouch(fn func(Touch)) {
	if fn == nil {
		d.onTouch.Store(nil)
		return
	}
	d.onTouch.Store(&fn)
}

// Touched returns how many frames were read since the disk was opened, and how many
// it has.
func (d *Disk) Touched() (touched, frames int64) { return d.stats.touched.Load(), d.frameCount }

// marks remember of each frame whether it was read, and whether it was brought before
// that: two bits, in the order of the map. They take less than the map does.
type marks struct {
	words []atomic.Uint64
	log2  uint // of the frames that a full chunk has
}

const (
	touchedMark = 1
	aheadMark   = 2

	markBits     = 2
	marksPerWord = 64 / markBits
)

func newMarks(m *blockmap.Map) marks {
	info := m.Info()
	k := marks{log2: uint(info.ChunkLog2 - info.FrameLog2)}
	k.words = make([]atomic.Uint64, (m.Len()<<k.log2+marksPerWord-1)/marksPerWord)
	return k
}

// at returns where the marks of a frame are.
func (k *marks) at(pos int, frame uint32) (word *atomic.Uint64, shift uint) {
	i := uint(pos)<<k.log2 | uint(frame)
	return &k.words[i/marksPerWord], i % marksPerWord * markBits
}

// get returns a frame's marks.
func (k *marks) get(pos int, frame uint32) uint64 {
	word, shift := k.at(pos, frame)
	return word.Load() >> shift & (1<<markBits - 1)
}

// touched reports whether the frame was read.
func (k *marks) touched(pos int, frame uint32) bool { return k.get(pos, frame)&touchedMark != 0 }

// set sets a mark and returns the frame's marks from before.
func (k *marks) set(pos int, frame uint32, mark uint64) uint64 {
	word, shift := k.at(pos, frame)
	return word.Or(mark<<shift) >> shift & (1<<markBits - 1)
}

// forget takes the mark of a frame that was brought and not read.
func (k *marks) forget(pos int, frame uint32) {
	word, shift := k.at(pos, frame)
	for old := word.Load(); old>>shift&(1<<markBits-1) == aheadMark; old = word.Load() {
		if word.CompareAndSwap(old, old&^(aheadMark<<shift)) {
			return
		}
	}
}

// touch notes that a read has got bytes of p's frame. It is on the way of every read,
// so all but the first of a frame cost one look.
func (d *Disk) touch(p *piece) {
	if !d.marks.touched(p.pos, p.frame) {
		d.touchFirst(p.pos, p.frame, time.Now(), 0)
	}
}

// touchFirst is touch of what nobody is known to have read.
func (d *Disk) touchFirst(pos int, frame uint32, begun time.Time, waited time.Duration) {
	old := d.marks.set(pos, frame, touchedMark)
	if old&touchedMark != 0 {
		return
	}
	d.stats.touched.Add(1)
	if old&aheadMark != 0 {
		d.stats.aheadUsed.Add(1)
	}
	if fn := d.onTouch.Load(); fn != nil {
		(*fn)(Touch{Chunk: pos, Frame: int(frame), Begun: begun, Waited: waited})
	}
}

// countFrames returns how many frames the chunks of m have.
func countFrames(m *blockmap.Map) (n int64) {
	info := m.Info()
	for i := range m.Len() {
		c := m.Chunk(i)
		n += (int64(c.Size) + 1<<info.FrameLog2 - 1) >> info.FrameLog2
	}
	return n
}

// Frames are frames of one chunk, by their numbers.
type Frames [chunk.MaxFrames / 64]uint64

// Add adds frame i, which is less than chunk.MaxFrames.
func (s *Frames) Add(i int) { s[i/64] |= 1 << (i % 64) }

// Has reports whether frame i is one of them.
func (s *Frames) Has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// Len returns how many there are.
func (s *Frames) Len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}
