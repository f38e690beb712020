package ext4

import "sort"

const (
	maxExtentDepth = 5 // enough for 2^32 extents in blocks of 1 KiB
	extentBlockEnd = 1 << 32
)

// extentView is a checked node of an extent tree: entries in order, none of
// which overlap.
type extentView struct {
	p     []byte
	count int
	depth int // 0 for one with extents
}

func (n extentView) entry(i int) []byte {
	return n.p[extentHeaderSize+i*extentEntrySize:][:extentEntrySize]
}

func (n extentView) logical(i int) uint64 { return uint64(le.Uint32(n.entry(i))) }

// child is the block of the node below entry i.
func (n extentView) child(i int) uint64 {
	e := n.entry(i)
	return uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32
}

// extent is entry i of a node of depth 0. The count of one whose blocks were
// reserved but not written is above MaxExtentLen by it.
func (n extentView) extent(i int) (count, start uint64, written bool) {
	e := n.entry(i)
	count = uint64(le.Uint16(e[4:]))
	start = uint64(le.Uint16(e[6:]))<<32 | uint64(le.Uint32(e[8:]))
	if count > MaxExtentLen {
		return count - MaxExtentLen, start, false
	}
	return count, start, true
}

// end is the block of the file behind entry i, which for all but extents is
// not more than its first one.
func (n extentView) end(i int) uint64 {
	if n.depth > 0 {
		return n.logical(i) + 1
	}
	count, _, _ := n.extent(i)
	return n.logical(i) + count
}

// viewExtents checks the header of a node.
func viewExtents(p []byte) (extentView, bool) {
	limit := int(le.Uint16(p[4:]))
	n := extentView{p: p, count: int(le.Uint16(p[2:])), depth: int(le.Uint16(p[6:]))}
	ok := le.Uint16(p) == extentMagic && n.count <= limit &&
		limit <= (len(p)-extentHeaderSize)/extentEntrySize && n.depth <= maxExtentDepth
	return n, ok
}

// check looks at the entries.
func (n extentView) check(s *superView) bool {
	next := uint64(0)
	for i := range n.count {
		if n.logical(i) < next {
			return false
		}
		next = n.end(i)
		start, count := uint64(0), uint64(1)
		if n.depth > 0 {
			start = n.child(i)
		} else {
			count, start, _ = n.extent(i)
		}
		if count == 0 || next > extentBlockEnd || !s.checkRun(start, count) {
			return false
		}
	}
	return true
}

// extentRoot gives the root of a file's tree.
func (fsys *FS) extentRoot(v *inodeView) (extentView, error) {
	n, ok := viewExtents(v.area[:])
	if !ok || !n.check(fsys.super) {
		return n, v.damaged("invalid root of the extent tree")
	}
	return n, nil
}

// extentChild gives the node below entry i of n, whose entries have to lie in
// [low,high).
func (fsys *FS) extentChild(v *inodeView, n extentView, i int, low, high uint64) (extentView, error) {
	key := blockKey{n.child(i), v.Number, extentBlock}
	p, err := fsys.readBlock(key, func(p []byte) error {
		c, ok := viewExtents(p)
		if !ok {
			return damagedBlock(key.block, "no node of an extent tree")
		}
		if tail := extentHeaderSize + int(le.Uint16(p[4:]))*extentEntrySize; fsys.super.checksums &&
			(tail+4 > len(p) || crc32c(v.seed, p[:tail]) != le.Uint32(p[tail:])) {
			return damagedBlock(key.block, "wrong checksum of a node of the extent tree of inode %d", v.Number)
		}
		if c.count == 0 || !c.check(fsys.super) {
			return damagedBlock(key.block, "invalid entries of an extent tree")
		}
		return nil
	})
	if err != nil {
		return extentView{}, err
	}
	c, _ := viewExtents(p)
	// The ranges keep each node in one place: no walk sees one twice.
	if c.depth != n.depth-1 || c.logical(0) < low || c.end(c.count-1) > high {
		return c, damagedBlock(key.block, "node of the extent tree of inode %d in a wrong place", v.Number)
	}
	return c, nil
}

func (fsys *FS) mapExtent(v *inodeView, logical uint64) (run, error) {
	n, err := fsys.extentRoot(v)
	if err != nil {
		return run{}, err
	}
	low, high := uint64(0), uint64(extentBlockEnd)
	for {
		// The entry to look at is the last one that starts at logical or before.
		i := sort.Search(n.count, func(i int) bool { return n.logical(i) > logical }) - 1
		next := high
		if i+1 < n.count {
			next = n.logical(i + 1)
		}
		if i < 0 {
			return hole(logical, next), nil
		}
		if n.depth == 0 {
			return n.run(i, logical, next), nil
		}
		low, high = n.logical(i), next
		if n, err = fsys.extentChild(v, n, i, low, high); err != nil {
			return run{}, err
		}
	}
}

// run is the part of extent i from logical on, or the hole behind it up to
// next.
func (n extentView) run(i int, logical, next uint64) run {
	count, start, written := n.extent(i)
	skip := logical - n.logical(i)
	switch {
	case skip >= count:
		return hole(logical, next)
	case !written:
		return run{0, count - skip}
	}
	return run{start + skip, count - skip}
}

// hole reaches from logical to next, or for ever if no extent can lie behind.
func hole(logical, next uint64) run {
	if next >= extentBlockEnd {
		return run{0, endless}
	}
	return run{0, next - logical}
}
