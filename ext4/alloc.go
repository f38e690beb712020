package ext4

import (
	"errors"
	"fmt"
	"math/bits"
)

// ErrInUse is wrapped by errors that tell of a block that has an owner already.
var ErrInUse = errors.New("in use already")

// ErrNoSpace is wrapped by errors that tell of a full metadata area.
var ErrNoSpace = errors.New("no space left")

// group is what the Writer knows of a block group. Its bitmaps do not exist
// until something in the group is used.
type group struct {
	blocks     *[BlockSize]byte
	inodes     []byte
	usedBlocks uint32
	usedInodes uint32
	usedDirs   uint32
	inodeEnd   uint32 // one behind the last used inode of the group
}

// allocation records the owner-or-none of every block and inode.
type allocation struct {
	geometry
	groups []group
}

func newAllocation(g geometry) *allocation {
	return &allocation{geometry: g, groups: make([]group, g.groups)}
}

// claim marks the blocks of r as used. All of them have to be on the device
// and free.
func (a *allocation) claim(r Range) error {
	for start, left := r.Start, r.Count; left > 0; {
		first := uint32(start % BlocksPerGroup)
		n := uint32(min(left, uint64(BlocksPerGroup-first)))
		g := &a.groups[start/BlocksPerGroup]
		if g.blocks == nil {
			g.blocks = new([BlockSize]byte)
		}
		if i, ok := setBits(g.blocks[:], first, n); !ok {
			return fmt.Errorf("block %d: %w", start-uint64(first)+uint64(i), ErrInUse)
		}
		g.usedBlocks += n
		start += uint64(n)
		left -= uint64(n)
	}
	return nil
}

// claimInode marks an inode as used. The caller has checked that there is one
// of that number and that it is free.
func (a *allocation) claimInode(number uint32, dir bool) {
	g := &a.groups[(number-1)/a.inodesPerGroup]
	i := (number - 1) % a.inodesPerGroup
	if g.inodes == nil {
		g.inodes = make([]byte, a.inodesPerGroup/8)
	}
	g.inodes[i/8] |= 1 << (i % 8)
	g.usedInodes++
	g.inodeEnd = max(g.inodeEnd, i+1)
	if dir {
		g.usedDirs++
	}
}

// inodeUsed says whether an inode, whose number the caller has checked, is
// used.
func (a *allocation) inodeUsed(number uint32) bool {
	g := &a.groups[(number-1)/a.inodesPerGroup]
	i := (number - 1) % a.inodesPerGroup
	return g.inodes != nil && g.inodes[i/8]&(1<<(i%8)) != 0
}

// blocksIn is the number of blocks of group i, less than BlocksPerGroup in the
// last only.
func (a *allocation) blocksIn(i int) uint32 {
	return uint32(min(BlocksPerGroup, a.blocks-uint64(i)*BlocksPerGroup))
}

// free counts the blocks and the inodes that nobody owns.
func (a *allocation) free() (blocks uint64, inodes uint32) {
	blocks, inodes = a.blocks, a.inodes()
	for i := range a.groups {
		blocks -= uint64(a.groups[i].usedBlocks)
		inodes -= a.groups[i].usedInodes
	}
	return blocks, inodes
}

// setBits sets the n bits of m from first on. If one of them is set already,
// it returns its index and false.
func setBits(m []byte, first, n uint32) (uint32, bool) {
	for i := first; i < first+n; {
		lo := i % 8
		mask := byte(0xff << lo)
		if end := first + n; end-i < 8-lo {
			mask &= 0xff >> (8 - lo - (end - i))
		}
		if both := m[i/8] & mask; both != 0 {
			return i - lo + uint32(bits.TrailingZeros8(both)), false
		}
		m[i/8] |= mask
		i += 8 - lo
	}
	return 0, true
}
