package ext4

import (
	"errors"
	"fmt"
)

// ErrExtents is wrapped by errors that tell of extents that overlap, are not
// in order, or lie outside of the file or of the area for data.
var ErrExtents = errors.New("invalid extents")

// cutExtents checks extents against a file of the given number of blocks and
// the area [low,high) of the device, joins those that continue one another and
// cuts the result into pieces that the format can hold.
func cutExtents(in []Extent, fileBlocks, low, high uint64) ([]Extent, error) {
	out := make([]Extent, 0, len(in))
	var next uint64 // first block of the file that may come
	for _, e := range in {
		end := uint64(e.Logical) + uint64(e.Count)
		switch {
		case e.Count == 0:
			return nil, fmt.Errorf("%w: empty one at block %d of the file", ErrExtents, e.Logical)
		case uint64(e.Logical) < next:
			return nil, fmt.Errorf("%w: block %d of the file comes after block %d", ErrExtents, e.Logical, next-1)
		case end > fileBlocks:
			return nil, fmt.Errorf("%w: block %d of a file of %d blocks", ErrExtents, end-1, fileBlocks)
		case e.Start < low || e.Start >= high || uint64(e.Count) > high-e.Start:
			return nil, fmt.Errorf("%w: %d blocks from %d, outside of [%d,%d)", ErrExtents, e.Count, e.Start, low, high)
		}
		next = end
		out = appendExtent(out, e)
	}
	return out, nil
}

// appendExtent adds a non-empty e behind the others, joined to the last one
// where it continues it, in pieces of at most MaxExtentLen blocks.
func appendExtent(list []Extent, e Extent) []Extent {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.Logical+last.Count == e.Logical && last.Start+uint64(last.Count) == e.Start {
			k := min(MaxExtentLen-last.Count, e.Count)
			last.Count += k
			e = Extent{e.Logical + k, e.Count - k, e.Start + uint64(k)}
		}
	}
	for e.Count > 0 {
		k := min(e.Count, MaxExtentLen)
		list = append(list, Extent{e.Logical, k, e.Start})
		e = Extent{e.Logical + k, e.Count - k, e.Start + uint64(k)}
	}
	return list
}

// extentTree is the shape of a tree over a list of extents: as flat as it can
// be, each node full but the last one of a level.
type extentTree struct {
	extents []Extent
	levels  []int // nodes in blocks, from below the root down to the leaves
}

func newExtentTree(extents []Extent) extentTree {
	t := extentTree{extents: extents}
	for n := len(extents); n > extentsInInode; {
		n = (n + extentsInNode - 1) / extentsInNode
		t.levels = append([]int{n}, t.levels...)
	}
	return t
}

// nodes is the number of blocks that the tree takes.
func (t *extentTree) nodes() int {
	sum := 0
	for _, n := range t.levels {
		sum += n
	}
	return sum
}

// encode writes the root into area and gives each node's block to put. The
// nodes are numbered from the root's children down, level by level; place says
// in which block one lies. The slice that put gets is used again.
func (t *extentTree) encode(area []byte, seed uint32, place func(node int) uint64, put func(p []byte, block uint64) error) error {
	t.encodeNode(area, 0, 0, extentsInInode, 0, place)
	if len(t.levels) == 0 {
		return nil
	}
	block := make([]byte, BlockSize)
	first := 0 // number of the level's first node
	for level, n := range t.levels {
		for i := range n {
			clear(block)
			t.encodeNode(block, level+1, i, extentsInNode, first+n, place)
			le.PutUint32(block[extentTailOffset:], crc32c(seed, block[:extentTailOffset]))
			if err := put(block, place(first+i)); err != nil {
				return err
			}
		}
		first += n
	}
	return nil
}

// encodeNode writes node i of a level, level 0 being the root, whose children
// are numbered from children on.
func (t *extentTree) encodeNode(p []byte, level, i, limit, children int, place func(int) uint64) {
	depth := len(t.levels) - level
	total := len(t.extents)
	if depth > 0 {
		total = t.levels[level]
	}
	from := i * limit
	count := min(limit, total-from)
	le.PutUint16(p[0:], extentMagic)
	le.PutUint16(p[2:], uint16(count))
	le.PutUint16(p[4:], uint16(limit))
	le.PutUint16(p[6:], uint16(depth))
	for k := range count {
		at := p[extentHeaderSize+k*extentEntrySize:]
		if depth > 0 {
			child := place(children + from + k)
			le.PutUint32(at[0:], t.firstLogical(level+1, from+k))
			le.PutUint32(at[4:], uint32(child))
			le.PutUint16(at[8:], uint16(child>>32))
			continue
		}
		e := &t.extents[from+k]
		le.PutUint32(at[0:], e.Logical)
		le.PutUint16(at[4:], uint16(e.Count))
		le.PutUint16(at[6:], uint16(e.Start>>32))
		le.PutUint32(at[8:], uint32(e.Start))
	}
}

// firstLogical is the first block of the file that node i of a level covers.
func (t *extentTree) firstLogical(level, i int) uint32 {
	for range len(t.levels) - level + 1 {
		i *= extentsInNode
	}
	return t.extents[i].Logical
}
