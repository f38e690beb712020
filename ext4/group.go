package ext4

import "bytes"

// bitmapPlaces says where the bitmaps of each group and the nodes of the
// boot-loader inode lie. They share a row of blocks, stored ones first: block
// bitmaps, inode bitmaps, nodes, then the blocks kept for bitmaps of groups
// that are not used yet. The row starts behind the group descriptors and is
// continued below the journal when the low area is full.
type bitmapPlaces struct {
	blocks, inodes []uint64 // by group
	firstNode      uint64   // its index in the row
	row            func(i uint64) uint64
}

func (p *bitmapPlaces) node(i int) uint64 { return p.row(p.firstNode + uint64(i)) }

// blockInit says whether group i needs a stored block bitmap. The last group
// always does: its bitmap says where the device ends.
func (a *allocation) blockInit(i int) bool {
	return a.groups[i].blocks != nil || i == len(a.groups)-1
}

func (a *allocation) inodeInit(i int) bool { return a.groups[i].inodes != nil }

// placeBitmaps takes the blocks for the bitmaps and for a number of nodes.
func (a *allocation) placeBitmaps(nodes uint64) (*bitmapPlaces, error) {
	over, start, low := a.overflow(nodes), a.overflowStart(nodes), a.low-a.bitmaps
	all := 2*a.geometry.groups + nodes
	for _, r := range []Range{{a.bitmaps, all - over}, {start, over}} {
		if err := a.claim(r); err != nil {
			return nil, err
		}
	}
	p := &bitmapPlaces{
		blocks: make([]uint64, len(a.groups)),
		inodes: make([]uint64, len(a.groups)),
		row: func(i uint64) uint64 {
			if i < low {
				return a.bitmaps + i
			}
			return start + i - low
		},
	}
	var next uint64
	assign := func(places []uint64, init func(int) bool, want bool) {
		for i := range places {
			if init(i) == want {
				places[i] = p.row(next)
				next++
			}
		}
	}
	assign(p.blocks, a.blockInit, true)
	assign(p.inodes, a.inodeInit, true)
	p.firstNode = next
	next += nodes
	assign(p.blocks, a.blockInit, false)
	assign(p.inodes, a.inodeInit, false)
	return p, nil
}

// writeGroups writes the group descriptors and the bitmaps.
func (w *Writer) writeGroups(p *bitmapPlaces) error {
	a := w.alloc
	table := make([]byte, (a.bitmaps-1)*BlockSize)
	for i := range a.groups {
		w.putDescriptor(table[i*descSize:][:descSize], i, p)
	}
	if err := w.out.writeAt(table, BlockSize); err != nil {
		return err
	}
	for i := range a.groups {
		if a.blockInit(i) {
			if err := w.out.writeBlock(a.blockBitmap(i), p.blocks[i]); err != nil {
				return err
			}
		}
	}
	for i := range a.groups {
		if a.inodeInit(i) {
			if err := w.out.writeBlock(a.inodeBitmap(i), p.inodes[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// putDescriptor writes the descriptor of group i.
func (w *Writer) putDescriptor(d []byte, i int, p *bitmapPlaces) {
	a, g := w.alloc, &w.alloc.groups[i]
	seed := w.config.ChecksumSeed
	flags := uint16(groupInodeZeroed)
	if a.blockInit(i) {
		putSplit(d, 0x18, 0x38, crc32c(seed, a.blockBitmap(i)))
	} else {
		flags |= groupBlockUninit
	}
	if a.inodeInit(i) {
		putSplit(d, 0x1a, 0x3a, crc32c(seed, g.inodes))
	} else {
		flags |= groupInodeUninit
	}
	for k, block := range [...]uint64{p.blocks[i], p.inodes[i], a.itable + uint64(i)*uint64(a.tableBlocks())} {
		le.PutUint32(d[0x00+4*k:], uint32(block))
		le.PutUint32(d[0x20+4*k:], uint32(block>>32))
	}
	putSplit(d, 0x0c, 0x2c, a.blocksIn(i)-g.usedBlocks)
	putSplit(d, 0x0e, 0x2e, a.inodesPerGroup-g.usedInodes)
	putSplit(d, 0x10, 0x30, g.usedDirs)
	le.PutUint16(d[0x12:], flags)
	putSplit(d, 0x1c, 0x32, a.inodesPerGroup-g.inodeEnd)
	var number [4]byte
	le.PutUint32(number[:], uint32(i))
	le.PutUint16(d[0x1e:], uint16(crc32c(crc32c(seed, number[:]), d)))
}

// putSplit writes the halves of v to two places of a descriptor.
func putSplit(d []byte, low, high int, v uint32) {
	le.PutUint16(d[low:], uint16(v))
	le.PutUint16(d[high:], uint16(v>>16))
}

// blockBitmap is the block bitmap of a group that needs one, with the blocks
// behind the device's end as used.
func (a *allocation) blockBitmap(i int) []byte {
	g := &a.groups[i]
	if g.blocks == nil {
		g.blocks = new([BlockSize]byte)
	}
	p := bytes.Clone(g.blocks[:])
	n := a.blocksIn(i)
	setBits(p, n, BlocksPerGroup-n)
	return p
}

// inodeBitmap is the inode bitmap of a group that has one; the rest of the
// block counts as used.
func (a *allocation) inodeBitmap(i int) []byte {
	p := bytes.Repeat([]byte{0xff}, BlockSize)
	copy(p, a.groups[i].inodes)
	return p
}
