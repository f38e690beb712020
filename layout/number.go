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
// that names it and the path's place among that layer's entries, directories
// before the rest.
type numbers struct {
	start []uint32   // a layer's first number
	place [][]uint32 // entry of a layer -> place in its range
	end   uint64     // first number past all ranges
}

func newNumbers(layers []Layer) (*numbers, error) {
	n := &numbers{end: 1 + inodeUnit} // the first unit is the file system's own
	for _, l := range layers {
		n.start = append(n.start, uint32(n.end))
		n.place = append(n.place, places(l.Entries))
		n.end += quantum(uint64(len(l.Entries)), inodeUnit)
		if n.end > math.MaxUint32/2 {
			return nil, fmt.Errorf("too many files: inode numbers of the layers exceed %d", math.MaxUint32/2)
		}
	}
	return n, nil
}

func places(entries []flatten.Entry) []uint32 {
	place := make([]uint32, len(entries))
	next := uint32(0)
	for _, dirs := range []bool{true, false} {
		for i := range entries {
			if (entries[i].Kind == flatten.Dir) == dirs {
				place[i] = next
				next++
			}
		}
	}
	return place
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
