package disk

import (
	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

// readNear reads a piece from Options.Near, and reports whether it could. It is
// for frames that are stored as they are but for their encryption, of which a
// part opens alone: so a read costs what it reads, and nothing is kept in memory,
// since what is near is as good. Whatever is in its way is left to a flight,
// which tries again and says what is wrong.
func (d *Disk) readNear(p *piece, dst []byte) bool {
	c := &p.chunk
	if !d.byPage(c) {
		return false
	}
	head := chunk.HeaderLen(d.frames(c))
	k := d.desks.Get().(*desk)
	defer d.desks.Put(k)
	h := &k.header
	n, err := d.opt.Near.ReadChunk(d.ctx, c.ID, k.buf[:head], 0)
	if err != nil || n != head || h.Parse(k.buf[:head]) != nil ||
		h.Codec != chunk.Raw || h.Size != c.Size || h.FrameLog2 != d.info.FrameLog2 {
		return false
	}
	n, err = d.opt.Near.ReadChunk(d.ctx, c.ID, dst, h.FrameOffset(int(p.frame))+int64(p.from))
	if err != nil || n != len(dst) {
		return false
	}
	seal.XOR(c.Key, int(p.frame), int64(p.from), dst)
	if end := int64(p.frame)<<h.FrameLog2 + int64(p.from+len(dst)); end == int64(c.Size) && dst[len(dst)-1] == 0 {
		return false // the format forbids it
	}
	d.stats.near.Add(1)
	return true
}

// byPage reports whether c is read by the page where it is near: its frames are raw, by
// what they take.
func (d *Disk) byPage(c *blockmap.Chunk) bool {
	return d.opt.Near != nil && int64(c.Stored) == int64(chunk.HeaderLen(d.frames(c)))+int64(c.Size)
}
