package layout

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
)

// A Layer is what an image needs to know of one of its layers.
type Layer struct {
	Entries []flatten.Entry
	Segment *Segment
	// Stored says which chunks of the segment hold anything but zeros.
	Stored []bool
}

// An Image is what a disk is made of.
type Image struct {
	ChainID [sha256.Size]byte
	Tree    *flatten.Tree
	Layers  []Layer
	// Size is the disk's size in bytes, a multiple of 1 MiB; 0 chooses a power
	// of two with room for twice the content and at least 1 GiB more.
	Size int64
}

// A Slot is the place of a layer's segment on the disk, in chunks.
type Slot struct {
	First  uint32
	Chunks uint32 // the slot's size
	Used   []bool // which chunks of the segment belong to the disk
}

// A Disk is the outcome of Build.
type Disk struct {
	Size  int64
	Slots []Slot // one a layer
	// MetaEnd is the end, in bytes, of the area behind the slots that holds
	// directories and the like.
	MetaEnd int64
}

// ErrTooSmall is returned (wrapped) when Image.Size is too small for the image.
var ErrTooSmall = errors.New("disk too small for the image")

// Build lays the image out, sets the inode numbers of its tree, and writes to w
// all of the disk but the chunks of the segments. What is not written is zero.
// Build uses w from one goroutine.
func Build(img *Image, w io.WriterAt) (*Disk, error) {
	if len(img.Layers) > MaxLayers {
		return nil, fmt.Errorf("image of %d layers: at most %d are supported", len(img.Layers), MaxLayers)
	}
	b := builder{img: img, perChunk: Default.chunkBlocks()}
	if len(img.Layers) > 0 {
		b.perChunk = img.Layers[0].Segment.params.chunkBlocks()
	}
	b.giveSlots()
	num, err := newNumbers(img.Layers)
	if err != nil {
		return nil, err
	}
	nodes, err := num.assign(img.Tree)
	if err != nil {
		return nil, err
	}
	b.markUsed(nodes)
	size, err := b.chooseSize(nodes, num.end)
	if err != nil {
		return nil, err
	}
	if err := b.write(w, size, num, nodes); err != nil {
		return nil, err
	}
	return &Disk{Size: size, Slots: b.slots, MetaEnd: int64(b.metaEnd) * ext4.BlockSize}, nil
}

type builder struct {
	img      *Image
	perChunk uint32
	slots    []Slot
	pieces   [][]int32 // entry of a layer -> its piece, or -1
	owned    []bitset  // pieces of a layer that files of the tree use
	meta     uint64    // first block behind the slots
	metaEnd  uint64
}

// giveSlots places the segments.
func (b *builder) giveSlots() {
	next := uint64(ceilDiv(lowBlocks, b.perChunk))
	for _, l := range b.img.Layers {
		n := quantum(uint64(l.Segment.Chunks), minSlotChunks)
		b.slots = append(b.slots, Slot{First: uint32(next), Chunks: uint32(n), Used: make([]bool, l.Segment.Chunks)})
		next += n
		index := make([]int32, len(l.Entries))
		for i := range index {
			index[i] = -1
		}
		for i, p := range l.Segment.Pieces {
			index[p.Entry] = int32(i)
		}
		b.pieces = append(b.pieces, index)
		b.owned = append(b.owned, newBitset(uint64(len(l.Segment.Pieces))))
	}
	b.meta = next * uint64(b.perChunk)
}

// markUsed finds which pieces, and so which chunks, the tree uses.
func (b *builder) markUsed(nodes []*flatten.Node) {
	for _, n := range nodes {
		if in := n.Inode; in.Kind == flatten.File && in.Size > 0 {
			b.owned[in.Layer].add(uint32(b.pieces[in.Layer][in.Entry]))
		}
	}
	for i := range b.slots {
		l, used := &b.img.Layers[i], b.slots[i].Used
		for k, p := range l.Segment.Pieces {
			if !b.owned[i].has(uint32(k)) {
				continue
			}
			for c := p.Start / b.perChunk; c <= (p.Start+p.Count-1)/b.perChunk; c++ {
				used[c] = l.Stored[c]
			}
		}
	}
}

// extents returns where the data of a file lies. The chunks of a large file
// that hold only zeros are holes in it.
func (b *builder) extents(in *flatten.Inode) []ext4.Extent {
	if in.Size == 0 {
		return nil
	}
	l, slot := &b.img.Layers[in.Layer], &b.slots[in.Layer]
	p := l.Segment.Pieces[b.pieces[in.Layer][in.Entry]]
	base := uint64(slot.First) * uint64(b.perChunk)
	if in.Size < int64(l.Segment.params.Large) {
		return []ext4.Extent{{Count: p.Count, Start: base + uint64(p.Start)}}
	}
	var out []ext4.Extent
	for at := uint32(0); at < p.Count; at += b.perChunk {
		if !slot.Used[(p.Start+at)/b.perChunk] {
			continue
		}
		n := min(b.perChunk, p.Count-at)
		if k := len(out) - 1; k >= 0 && out[k].Logical+out[k].Count == at {
			out[k].Count += n
		} else {
			out = append(out, ext4.Extent{Logical: at, Count: n, Start: base + uint64(p.Start+at)})
		}
	}
	return out
}

// chooseSize returns the disk's size in bytes.
func (b *builder) chooseSize(nodes []*flatten.Node, inodes uint64) (int64, error) {
	content := uint64(0)
	for _, l := range b.img.Layers {
		for _, p := range l.Segment.Pieces {
			content += uint64(p.Count)
		}
	}
	meta := b.metaBound(nodes)
	content += meta
	end := b.meta + meta
	fits := func(blocks, free uint64) bool {
		groups := ceilDiv(blocks, ext4.BlocksPerGroup)
		high := groups*(inodesPerGroup*ext4.InodeSize/ext4.BlockSize+2) + journalBlocks + 4*uint64(b.perChunk)
		return groups*inodesPerGroup >= inodes && blocks >= end+high+free
	}
	if b.img.Size != 0 {
		blocks := uint64(b.img.Size / ext4.BlockSize)
		if b.img.Size%(1<<20) != 0 || b.img.Size < 0 || b.img.Size > MaxDiskBytes {
			return 0, fmt.Errorf("disk size %d: want a multiple of 1 MiB, at most %d", b.img.Size, MaxDiskBytes)
		}
		if !fits(blocks, 0) {
			return 0, fmt.Errorf("disk size %d: %w", b.img.Size, ErrTooSmall)
		}
		return b.img.Size, nil
	}
	for blocks := uint64(freeBytes) / ext4.BlockSize; blocks <= uint64(MaxDiskBytes)/ext4.BlockSize; blocks *= 2 {
		if blocks >= 2*content && fits(blocks, freeBytes/ext4.BlockSize) {
			return int64(blocks) * ext4.BlockSize, nil
		}
	}
	return 0, fmt.Errorf("image needs a disk of more than %d bytes", MaxDiskBytes)
}

// metaBound is an upper bound of the blocks that directories, long symbolic
// links, attributes, extent trees and the slack's extents take.
func (b *builder) metaBound(nodes []*flatten.Node) uint64 {
	blocks := uint64(len(b.slots)+1) * uint64(b.perChunk)
	for _, n := range nodes {
		in := n.Inode
		switch in.Kind {
		case flatten.Dir:
			bytes := 64
			for _, c := range n.Children {
				bytes += 12 + len(c.Name)
			}
			blocks += 2 + 2*uint64(bytes)/ext4.BlockSize
		case flatten.Symlink:
			blocks++
		case flatten.File:
			if in.Size > 4<<16 { // more than four extents take tree nodes
				blocks += 2 + uint64(in.Size>>24)
			}
		}
		if len(in.Xattrs) > 0 {
			blocks++
		}
	}
	for _, l := range b.img.Layers {
		blocks += 1 + uint64(len(l.Segment.Pieces))/128
	}
	return blocks
}

func (b *builder) config(size int64) ext4.Config {
	h := sha256.New()
	h.Write([]byte("rivulet disk\x00"))
	h.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, Version), uint64(size)))
	h.Write(b.img.ChainID[:])
	var uuid [16]byte
	copy(uuid[:], h.Sum(nil))
	uuid[6] = uuid[6]&0x0f | 0x80 // RFC 9562 version 8: of our own making
	uuid[8] = uuid[8]&0x3f | 0x80
	return ext4.Config{
		Blocks: uint64(size / ext4.BlockSize), InodesPerGroup: inodesPerGroup,
		UUID: uuid, HashSeed: hashSeed, ChecksumSeed: checksumSeed,
		Low: lowBlocks, Meta: b.meta, JournalBlocks: journalBlocks,
	}
}

func (b *builder) write(w io.WriterAt, size int64, num *numbers, nodes []*flatten.Node) error {
	fsw, err := ext4.NewWriter(w, b.config(size))
	if err != nil {
		return err
	}
	layer := -1
	for _, n := range nodes {
		// Directories of one layer share no chunk with another's.
		for layer+1 < len(num.start) && n.Inode.Number >= num.start[layer+1] {
			layer++
			if err := fsw.AlignMeta(uint64(b.perChunk)); err != nil {
				return err
			}
		}
		if err := b.add(fsw, n); err != nil {
			return err
		}
	}
	if err := fsw.AlignMeta(uint64(b.perChunk)); err != nil {
		return err
	}
	for i := range b.img.Layers {
		if err := b.reserveSlack(fsw, i); err != nil {
			return err
		}
	}
	b.metaEnd = fsw.MetaEnd()
	return fsw.Close()
}

// reserveSlack gives every block of a chunk that the disk has, and no file, to
// the boot-loader inode, so that a guest that writes leaves shared chunks
// alone.
func (b *builder) reserveSlack(fsw *ext4.Writer, layer int) error {
	l, slot := &b.img.Layers[layer], &b.slots[layer]
	base := uint64(slot.First) * uint64(b.perChunk)
	per := uint64(b.perChunk)
	for i, used := range slot.Used {
		if !used {
			continue
		}
		next, end := uint64(i)*per, uint64(i+1)*per
		for _, p := range l.Segment.PiecesOf(uint32(i)) {
			if !b.owned[layer].has(uint32(b.pieces[layer][p.Entry])) {
				continue
			}
			start := max(uint64(p.Start), next)
			if err := reserve(fsw, base, next, start); err != nil {
				return err
			}
			next = min(uint64(p.Start)+uint64(p.Count), end)
		}
		if err := reserve(fsw, base, next, end); err != nil {
			return err
		}
	}
	return nil
}

func reserve(fsw *ext4.Writer, base, from, to uint64) error {
	if from >= to {
		return nil
	}
	return fsw.Reserve(ext4.Range{Start: base + from, Count: to - from})
}

var kindMode = map[flatten.Kind]uint16{
	flatten.Dir: ext4.ModeDir, flatten.File: ext4.ModeRegular, flatten.Symlink: ext4.ModeSymlink,
	flatten.Char: ext4.ModeChar, flatten.Block: ext4.ModeBlock, flatten.FIFO: ext4.ModeFIFO,
}

// add writes the inode of n, and a directory's names.
func (b *builder) add(fsw *ext4.Writer, n *flatten.Node) error {
	in := n.Inode
	ino := &ext4.Inode{
		Number: in.Number, Mode: kindMode[in.Kind] | in.Mode, UID: in.UID, GID: in.GID,
		Links: uint32(min(in.Links, math.MaxInt32)), MTime: ext4.Time(in.MTime), Size: in.Size,
		Target: in.Target, Major: in.Major, Minor: in.Minor,
	}
	for _, x := range in.Xattrs {
		ino.Xattrs = append(ino.Xattrs, ext4.Xattr{Name: x.Name, Value: []byte(x.Value)})
	}
	if in.Kind != flatten.Dir {
		if in.Kind == flatten.File {
			ino.Extents = b.extents(in)
		}
		if err := fsw.Add(ino); err != nil {
			return fmt.Errorf("file %q: %w", n.Path(), err)
		}
		return nil
	}
	entries := make([]ext4.Dirent, len(n.Children))
	for i, c := range n.Children {
		entries[i] = ext4.Dirent{Name: c.Name, Number: c.Inode.Number, Type: kindMode[c.Inode.Kind]}
	}
	if err := fsw.AddDir(ino, n.Parent.Inode.Number, entries); err != nil {
		return fmt.Errorf("directory %q: %w", n.Path(), err)
	}
	return nil
}
