package ext4

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// MaxOwned bounds the blocks that one call of Owners looks up.
const MaxOwned = 1 << 20

// A Use says what a block is there for.
type Use uint8

// What blocks are used for.
const (
	Free        Use = iota // nothing refers to it
	Slack                  // the boot-loader inode's: room in bins, and files that no layer above shows
	Super                  // the superblock, or a copy
	Descriptors            // of groups
	BlockBitmap
	InodeBitmap
	InodeTable
	Journal
	FileData
	DirectoryData
	LinkTarget // of a symbolic link too long for its inode
	MapNode    // says where a file's blocks lie
	Attributes // a file's extended attributes
	Reserved   // another inode's that no directory names
)

var useNames = [...]string{
	"free space", "slack", "superblock", "group descriptors", "block bitmap", "inode bitmap", "inode table", "journal",
	"file", "directory", "symbolic link", "extent tree", "extended attributes", "reserved inode",
}

// String returns the use in words.
func (u Use) String() string {
	if int(u) < len(useNames) {
		return useNames[u]
	}
	return fmt.Sprintf("use %d", uint8(u))
}

// An Owner says to what some blocks belong.
type Owner struct {
	Range
	Use Use
	// Inode is the owner's number, of an inode table the first one in the blocks;
	// 0 if there is none.
	Inode   uint32
	Logical uint32 // block of its contents that Start is
	// Path is a name of Inode, as those of FS; if it has several, one of them. It
	// is empty for what has none.
	Path string
}

// Owners says what the wanted blocks belong to: each block once, by rising
// Start, neighbours of one owner together. Blocks behind the end of the file
// system are left out. Of two inodes that claim a block, which is damage, the
// lower one is named.
//
// It reads every inode table once, until all blocks are accounted for, then
// directories until all owners have a name; ctx ends it between two of these reads.
// Memory is bounded by the wanted blocks (at most MaxOwned), the depth of the tree
// and a bit for each directory; not by the number of files.
func (fsys *FS) Owners(ctx context.Context, wanted []Range) ([]Owner, error) {
	w, err := newClaims(wanted, fsys.super.blocks)
	if err == nil {
		err = fsys.claimGroups(ctx, w)
	}
	if err == nil {
		err = fsys.claimInodes(ctx, w)
	}
	if err == nil {
		err = fsys.nameOwners(ctx, w.owners)
	}
	if err != nil {
		return nil, fmt.Errorf("owners of blocks: %w", err)
	}
	w.claimRest()
	slices.SortFunc(w.owners, func(a, b Owner) int { return cmp.Compare(a.Start, b.Start) })
	return mergeOwners(w.owners), nil
}

// claims are the wanted blocks, and who was found to own them.
type claims struct {
	wanted []Range // by rising Start, not touching
	first  []int   // of each, the number of its first block among all wanted
	owned  []uint64
	left   int // blocks without an owner
	owners []Owner
}

func newClaims(wanted []Range, blocks uint64) (*claims, error) {
	c := &claims{}
	list := slices.Clone(wanted)
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	next := uint64(0) // block behind all ranges so far
	for _, r := range list {
		start, end := max(r.Start, next), r.Start+min(r.Count, blocks)
		if end = min(end, blocks); start >= end {
			continue
		}
		if n := len(c.wanted); n > 0 && start == next {
			c.wanted[n-1].Count += end - start
		} else {
			c.wanted = append(c.wanted, Range{start, end - start})
		}
		next = end
	}
	for _, r := range c.wanted {
		if r.Count > uint64(MaxOwned-c.left) {
			return nil, fmt.Errorf("more than %d", MaxOwned)
		}
		c.first = append(c.first, c.left)
		c.left += int(r.Count)
	}
	c.owned = make([]uint64, (c.left+63)/64)
	return c, nil
}

// search returns the first of the wanted ranges that does not end before block.
func (c *claims) search(block uint64) int {
	i, _ := slices.BinarySearchFunc(c.wanted, block, func(r Range, b uint64) int { return cmp.Compare(r.Start+r.Count-1, b) })
	return i
}

// claim gives o those of its blocks that are wanted and have no owner.
func (c *claims) claim(o Owner) {
	end := o.Start + o.Count
	for i := c.search(o.Start); i < len(c.wanted) && c.wanted[i].Start < end; i++ {
		r := c.wanted[i]
		from, to := max(r.Start, o.Start), min(r.Start+r.Count, end)
		for b := from; b < to; b++ {
			n := c.first[i] + int(b-r.Start)
			if c.owned[n/64]&(1<<(n%64)) != 0 {
				continue
			}
			c.owned[n/64] |= 1 << (n % 64)
			c.left--
			part := o
			part.Start, part.Count, part.Logical = b, 1, o.Logical+uint32(b-o.Start)
			c.add(part)
		}
	}
}

// add appends an owner, or extends the last one.
func (c *claims) add(o Owner) {
	if n := len(c.owners); n > 0 && c.owners[n-1].continues(&o) {
		c.owners[n-1].Count += o.Count
		return
	}
	c.owners = append(c.owners, o)
}

// continues reports whether next is more of o.
func (o *Owner) continues(next *Owner) bool {
	if o.Use != next.Use || o.Start+o.Count != next.Start {
		return false
	}
	switch o.Use {
	case FileData, DirectoryData, LinkTarget, Reserved:
		return o.Inode == next.Inode && o.Logical+uint32(o.Count) == next.Logical
	case MapNode, Attributes:
		return o.Inode == next.Inode
	}
	return true
}

// claimRest gives what is left to nobody.
func (c *claims) claimRest() {
	for i, r := range c.wanted {
		for b := range r.Count {
			if n := c.first[i] + int(b); c.owned[n/64]&(1<<(n%64)) == 0 {
				c.add(Owner{Range: Range{r.Start + b, 1}, Use: Free})
			}
		}
	}
}

// mergeOwners joins neighbours that were found apart.
func mergeOwners(list []Owner) []Owner {
	merged := list[:0]
	for _, o := range list {
		if n := len(merged); n > 0 && merged[n-1].continues(&o) {
			merged[n-1].Count += o.Count
		} else {
			merged = append(merged, o)
		}
	}
	return merged
}
