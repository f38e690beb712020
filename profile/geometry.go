package profile

import (
	"github.com/rivuletfs/rivulet/blockmap"
)

// A Geometry is how a disk is cut into frames.
type Geometry struct {
	*blockmap.Map
	chunk, frame int64 // bytes
}

// GeometryOf returns the geometry of the disk that m is of.
func GeometryOf(m *blockmap.Map) Geometry {
	info := m.Info()
	return Geometry{m, info.ChunkSize(), 1 << info.FrameLog2}
}

// FrameBytes returns the size of a frame.
func (g *Geometry) FrameBytes() int64 { return g.frame }

// Offset returns where a frame begins on the disk, in bytes.
func (g *Geometry) Offset(f Frame) int64 {
	return int64(g.Chunk(int(f.Chunk)).Index)*g.chunk + int64(f.Number)*g.frame
}

// At returns the frame that the byte at off is in, or false for a hole.
func (g *Geometry) At(off int64) (Frame, bool) {
	i, found := g.Search(uint32(off / g.chunk))
	if !found {
		return Frame{}, false
	}
	n := off % g.chunk / g.frame
	return Frame{Chunk: uint32(i), Number: uint16(n)}, n*g.frame < int64(g.Chunk(i).Size)
}

// Coded returns about how many stored bytes a frame takes: its share of the chunk's.
func (g *Geometry) Coded(f Frame) int64 {
	c := g.Chunk(int(f.Chunk))
	n := (int64(c.Size) + g.frame - 1) / g.frame
	return int64(c.Stored) / max(n, 1)
}
