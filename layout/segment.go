package layout

import (
	"fmt"
	"io"
	"math"
	"sort"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
)

// A Piece is the place of one file's data in its segment.
type Piece struct {
	Entry uint32 // index of the file in the layer's entries
	Start uint32 // first block, counted from the segment's start
	Count uint32 // blocks, at least 1
}

// A Segment is the plan of one layer's data: a pure function of the sizes and
// names of its entries.
type Segment struct {
	Pieces []Piece // by rising Start, without overlap
	Chunks uint32  // chunks that the segment spans
	params Params
}

// maxSegmentBlocks keeps block numbers within a segment, and with the slack of
// its slot, far from the ends of their types.
const maxSegmentBlocks = MaxDiskBytes / ext4.BlockSize

// PlanSegment places the files of a layer. It keeps nothing of entries.
func PlanSegment(entries []flatten.Entry, p Params) (*Segment, error) {
	b, err := pack(entries, p)
	if err != nil {
		return nil, err
	}
	return b.segment(), nil
}

// pack places the files of a layer, in the order of entries.
func pack(entries []flatten.Entry, p Params) (*packer, error) {
	if int64(len(entries)) > math.MaxInt32 {
		return nil, fmt.Errorf("layer of %d entries: too many", len(entries))
	}
	b, err := newPacker(p)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		e := &entries[i]
		if e.Kind != flatten.File || e.Size <= 0 {
			continue
		}
		if err := b.place(uint32(i), e); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// A packer places files one after the other. There is at most one open bin: a
// large file that comes between two small ones does not end it.
type packer struct {
	params   Params
	perChunk uint32
	pieces   []Piece // in the order of the files; those of the open bin may move yet
	chunks   uint32  // chunks given out

	open  bool
	start uint32 // first block of the open bin
	bin   cutter // what is in it, in blocks; items are indexes of pieces
	ended []Bin  // bins that the file placed last had no room in
}

// A Bin is a run of small files that has come to its end: chunk Index of the
// segment, of which its files take Bytes bytes, whole blocks.
type Bin struct {
	Index uint32
	Bytes int
}

func newPacker(p Params) (*packer, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	b := &packer{params: p, perChunk: p.chunkBlocks()}
	b.bin = cutter{room: b.perChunk, least: uint32(ceilDiv(p.MinBin, ext4.BlockSize))}
	return b, nil
}

// segment ends the packer. The bin that is open then ends with the layer.
func (b *packer) segment() *Segment {
	sort.Slice(b.pieces, func(i, j int) bool { return b.pieces[i].Start < b.pieces[j].Start })
	return &Segment{Pieces: b.pieces, Chunks: b.chunks, params: b.params}
}

func (b *packer) place(i uint32, e *flatten.Entry) error {
	b.ended = b.ended[:0]
	blocks := ceilDiv(e.Size, ext4.BlockSize)
	if blocks+int64(b.chunks)*int64(b.perChunk) > maxSegmentBlocks {
		return fmt.Errorf("file %q: layer exceeds %d bytes", e.Path, MaxDiskBytes)
	}
	n := uint32(blocks)
	if e.Size >= int64(b.params.Large) {
		b.pieces = append(b.pieces, Piece{i, b.chunks * b.perChunk, n})
		b.chunks += ceilDiv(n, b.perChunk)
		return nil
	}
	if !b.open {
		b.open = true
		b.newBin()
	}
	for !b.bin.fits(n) {
		b.ended = append(b.ended, b.endBin())
	}
	b.pieces = append(b.pieces, Piece{i, b.start + b.bin.fill, n})
	b.bin.add(len(b.pieces)-1, n, e.Path)
	return nil
}

func (b *packer) newBin() {
	b.start = b.chunks * b.perChunk
	b.chunks++
}

// endBin ends the open bin, and takes what lies behind its end into the next.
func (b *packer) endBin() Bin {
	blocks, moved := b.bin.cut()
	done := Bin{Index: b.start / b.perChunk, Bytes: int(blocks) * ext4.BlockSize}
	b.newBin()
	for _, m := range moved {
		piece := &b.pieces[m.item]
		piece.Start = b.start + m.end - piece.Count
	}
	return done
}

// PiecesOf returns the pieces that have blocks in chunk i, by rising Start.
func (s *Segment) PiecesOf(i uint32) []Piece {
	per := s.params.chunkBlocks()
	from, to := i*per, (i+1)*per
	lo := sort.Search(len(s.Pieces), func(k int) bool { return s.Pieces[k].Start+s.Pieces[k].Count > from })
	hi := lo
	for hi < len(s.Pieces) && s.Pieces[hi].Start < to {
		hi++
	}
	return s.Pieces[lo:hi]
}

// ReadChunk fills buf, of one chunk's size, with chunk i of the segment. The
// layer is the one whose entries were planned, and only its Entries and Data
// are used. Any number of calls may run at once.
func (s *Segment) ReadChunk(l *flatten.Layer, i uint32, buf []byte) error {
	if len(buf) != s.params.Chunk {
		return fmt.Errorf("read chunk %d: buffer of %d bytes, want %d", i, len(buf), s.params.Chunk)
	}
	base := int64(i) * int64(s.params.Chunk)
	at := 0 // buf is filled up to here
	for _, p := range s.PiecesOf(i) {
		e := &l.Entries[p.Entry]
		start := int64(p.Start) * ext4.BlockSize
		skip := max(0, base-start) // bytes of the file that lie in earlier chunks
		to := int(start + skip - base)
		n := int(min(e.Size-skip, int64(len(buf)-to)))
		clear(buf[at:to])
		if _, err := io.ReadFull(io.NewSectionReader(l.Data, e.Data+skip, int64(n)), buf[to:to+n]); err != nil {
			return fmt.Errorf("read %q: %w", e.Path, err)
		}
		at = to + n
	}
	clear(buf[at:])
	return nil
}
