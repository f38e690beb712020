package ext4

import "fmt"

// bootLoader is the file of inode 5, which the kernel keeps for a boot loader
// and no directory names. It owns the blocks that no file shall get: its data
// are all reserved ranges, one behind the other.
type bootLoader struct {
	blocks uint64
	tree   extentTree
}

// newBootLoader lays out the file of the given ranges, which do not overlap. It
// changes their order.
func newBootLoader(reserved []Range) (*bootLoader, error) {
	b := new(bootLoader)
	ranges := mergeRanges(reserved)
	extents := make([]Extent, 0, len(ranges))
	for _, r := range ranges {
		if r.Count > maxFileBlocks-b.blocks {
			return nil, fmt.Errorf("%w: over %d blocks are reserved", ErrExtents, uint64(maxFileBlocks))
		}
		extents = appendExtent(extents, Extent{uint32(b.blocks), uint32(r.Count), r.Start})
		b.blocks += r.Count
	}
	b.tree = newExtentTree(extents)
	return b, nil
}

// writeBootLoader writes the inode, if anything is reserved, and its nodes.
func (w *Writer) writeBootLoader(b *bootLoader, place func(node int) uint64) error {
	if b.blocks == 0 {
		return nil
	}
	r := newRawInode(&Inode{Mode: ModeRegular | 0o600, MTime: w.config.Created}, 1)
	r.setSize(int64(b.blocks) * BlockSize)
	r.setBlocks(b.blocks + uint64(b.tree.nodes()))
	r.addFlags(flagExtents)
	seed := inodeSeed(w.config.ChecksumSeed, BootLoaderInode)
	if err := b.tree.encode(r.blockArea(), seed, place, w.out.writeBlock); err != nil {
		return err
	}
	return w.putInode(BootLoaderInode, r)
}
