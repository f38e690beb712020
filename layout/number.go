package layout

import (
	"fmt"
	"math"
	"sort"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
)

// numbers gives inodes their numbers. A layer owns a range of them, large
// enough to grow; a path's number is the start of the range of the lowest layer
// that names it and the path's place in that range. Places are given to runs of
// entries, and what a run does not use stays free, so that an entry more or
// less moves the numbers of few others.
type numbers struct {
	start []uint32   // a layer's first number
	place [][]uint32 // entry of a layer -> place in its range
	end   uint64     // first number past all ranges
}

func newNumbers(layers []Layer) (*numbers, error) {
	n := &numbers{end: 1 + inodeUnit} // the first unit is the file system's own
	for _, l := range layers {
		place, size := places(l.Entries)
		n.start = append(n.start, uint32(n.end))
		n.place = append(n.place, place)
		n.end += quantum(size, inodeUnit)
		if n.end > math.MaxUint32/2 {
			return nil, fmt.Errorf("too many files: inode numbers of the layers exceed %d", math.MaxUint32/2)
		}
	}
	return n, nil
}

// places returns the place of each entry of a layer, and how many places there
// are. Directories come before the rest.
func places(entries []flatten.Entry) (place []uint32, size uint64) {
	place = make([]uint32, len(entries))
	for _, dirs := range []bool{true, false} {
		run := cutter{room: inodeRun, least: inodeRun / 2}
		for i := range entries {
			if (entries[i].Kind == flatten.Dir) != dirs {
				continue
			}
			if !run.fits(1) {
				_, moved := run.cut()
				size += inodeRun
				for _, m := range moved {
					place[m.item] = uint32(size) + m.end - 1
				}
			}
			place[i] = uint32(size) + run.fill
			run.add(i, 1, entries[i].Path)
		}
		if run.fill > 0 {
			size += inodeRun
		}
	}
	return place, size
}

// assign sets the number of every inode of the tree, and returns for each the
// name that it comes from, by rising number. A name that no entry stands for,
// or that shares its entry with another (folders made where a dangling symbolic
// link leads), is numbered past all ranges, in walk order.
func (n *numbers) assign(tree *flatten.Tree) ([]*flatten.Node, error) {
	taken := newBitset(n.end)
	var order, late []*flatten.Node
	err := tree.Walk(func(_ string, node *flatten.Node) error {
		in := node.Inode
		if in.First != node {
			return nil
		}
		number := uint32(ext4.RootInode)
		if node != tree.Root {
			if node.HomeLayer < 0 || node.HomeRank < 0 {
				late = append(late, node)
				return nil
			}
			number = n.start[node.HomeLayer] + n.place[node.HomeLayer][node.HomeRank]
		}
		if taken.has(number) {
			late = append(late, node)
			return nil
		}
		taken.add(number)
		in.Number = number
		order = append(order, node)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, node := range late {
		node.Inode.Number = uint32(n.end)
		order = append(order, node)
		n.end++
	}
	sort.Slice(order, func(i, j int) bool { return order[i].Inode.Number < order[j].Inode.Number })
	return order, nil
}

// A bitset is a set of small numbers.
type bitset []uint64

func newBitset(n uint64) bitset    { return make(bitset, ceilDiv(n, 64)) }
func (b bitset) add(i uint32)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) has(i uint32) bool { return b[i/64]&(1<<(i%64)) != 0 }
