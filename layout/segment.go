package layout

import (
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"sort"
	"strings"

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
	pieces   []Piece // in the order of the files
	chunks   uint32  // chunks given out
	open     bool
	bin      uint32 // first block of the open bin
	fill     uint32 // blocks used in it
}

func newPacker(p Params) (*packer, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	return &packer{params: p, perChunk: p.chunkBlocks()}, nil
}

// segment ends the packer.
func (b *packer) segment() *Segment {
	sort.Slice(b.pieces, func(i, j int) bool { return b.pieces[i].Start < b.pieces[j].Start })
	return &Segment{Pieces: b.pieces, Chunks: b.chunks, params: b.params}
}

func (b *packer) place(i uint32, e *flatten.Entry) error {
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
	if b.open && b.fill+n > b.perChunk {
		b.open = false
	}
	if !b.open {
		b.open, b.bin, b.fill = true, b.chunks*b.perChunk, 0
		b.chunks++
	}
	b.pieces = append(b.pieces, Piece{i, b.bin + b.fill, n})
	b.fill += n
	if int(b.fill)*ext4.BlockSize >= b.params.MinBin && endsBin(e.Path, b.params.CutOneIn) {
		b.open = false
	}
	return nil
}

// endsBin says whether a bin may end after the file of that path. It looks at
// the last two parts of the path alone: a file that changes keeps its bin's
// end, and a folder that moves keeps its bins.
func endsBin(path string, oneIn int) bool {
	cut := strings.LastIndexByte(path, '/')
	if cut > 0 {
		cut = strings.LastIndexByte(path[:cut], '/')
	}
	return crc32.ChecksumIEEE([]byte(path[cut+1:]))%uint32(oneIn) == 0
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
