package registry

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// Bounds of the format; doc/format/registry.md has its bytes.
const (
	MaxPackBytes    = 1 << 30 // of a pack
	MaxPacks        = 1 << 14 // that one index leads to: so many fit into a manifest
	MaxIndexEntries = 1 << 23 // chunks in one index; as many as a block map may have

	indexMagic   = "rvi1"
	indexHeader  = 16
	packEntry    = 32 + 8
	chunkEntry   = 32 + 4 + 4 + 4
	maxIndexSize = indexHeader + MaxPacks*packEntry + MaxIndexEntries*chunkEntry

	minStored = 16 + 36 + 1 // bytes of the smallest stored chunk
)

// A pack is a blob of stored chunks.
type pack struct {
	digest origin.Digest
	size   int64 // bytes
}

// A place is where a chunk lies.
type place struct {
	id   chunk.ID
	pack uint32 // index into the packs
	off  uint32 // in the pack, in bytes
	len  uint32 // bytes of the stored chunk
}

// An index says where chunks lie. Packs rise by digest, and each has a chunk;
// places rise by ID.
type index struct {
	packs  []pack
	places []place
}

// encode returns the only encoding of x, whose order it establishes.
func (x *index) encode() []byte {
	x.sort()
	b := make([]byte, 0, indexHeader+len(x.packs)*packEntry+len(x.places)*chunkEntry)
	b = append(b, indexMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.packs)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.places)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	for i := range x.packs {
		b = append(b, x.packs[i].digest[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(x.packs[i].size))
	}
	for i := range x.places {
		p := &x.places[i]
		b = append(b, p.id[:]...)
		b = binary.LittleEndian.AppendUint32(b, p.pack)
		b = binary.LittleEndian.AppendUint32(b, p.off)
		b = binary.LittleEndian.AppendUint32(b, p.len)
	}
	return b
}

// sort brings packs and places into their order.
func (x *index) sort() {
	order := make([]uint32, len(x.packs)) // old places of the packs
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int {
		return bytes.Compare(x.packs[a].digest[:], x.packs[b].digest[:])
	})
	packs := make([]pack, len(order))
	now := make([]uint32, len(order))
	for i, old := range order {
		packs[i], now[old] = x.packs[old], uint32(i)
	}
	x.packs = packs
	for i := range x.places {
		x.places[i].pack = now[x.places[i].pack]
	}
	slices.SortFunc(x.places, func(a, b place) int { return bytes.Compare(a.id[:], b.id[:]) })
}

// parseIndex decodes an index. What it accepts, encode gives back.
func parseIndex(b []byte) (*index, error) {
	bad := func(format string, args ...any) (*index, error) {
		return nil, fmt.Errorf("%w: %s", ErrIndex, fmt.Sprintf(format, args...))
	}
	if len(b) < indexHeader || string(b[:4]) != indexMagic {
		return bad("%d bytes without its magic number", len(b))
	}
	packs, places := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	if packs > MaxPacks || places > MaxIndexEntries || binary.LittleEndian.Uint32(b[12:]) != 0 {
		return bad("%d packs and %d chunks", packs, places)
	}
	if want := indexHeader + int(packs)*packEntry + int(places)*chunkEntry; len(b) != want {
		return bad("%d bytes, want %d", len(b), want)
	}
	x := &index{packs: make([]pack, packs), places: make([]place, places)}
	b = b[indexHeader:]
	for i := range x.packs {
		p := &x.packs[i]
		copy(p.digest[:], b)
		p.size = int64(binary.LittleEndian.Uint64(b[32:]))
		if p.size < minStored || p.size > MaxPackBytes {
			return bad("pack of %d bytes", p.size)
		}
		if i > 0 && bytes.Compare(x.packs[i-1].digest[:], p.digest[:]) >= 0 {
			return bad("packs are out of order")
		}
		b = b[packEntry:]
	}
	used := make([]bool, packs)
	for i := range x.places {
		p := &x.places[i]
		copy(p.id[:], b)
		p.pack, p.off, p.len = binary.LittleEndian.Uint32(b[32:]), binary.LittleEndian.Uint32(b[36:]), binary.LittleEndian.Uint32(b[40:])
		switch {
		case p.pack >= packs:
			return bad("chunk %v lies in pack %d of %d", p.id, p.pack, packs)
		case p.len < minStored || p.len > chunk.MaxStoredSize || int64(p.off)+int64(p.len) > x.packs[p.pack].size:
			return bad("chunk %v lies outside its pack", p.id)
		case i > 0 && bytes.Compare(x.places[i-1].id[:], p.id[:]) >= 0:
			return bad("chunks are out of order")
		}
		used[p.pack] = true
		b = b[chunkEntry:]
	}
	if slices.Contains(used, false) {
		return bad("a pack has no chunk")
	}
	return x, nil
}

// A builder makes an index of places that other indexes have.
type builder struct {
	index
	at map[origin.Digest]uint32 // of packs
}

func (b *builder) add(id chunk.ID, p pack, off, length uint32) {
	i, ok := b.at[p.digest]
	if !ok {
		if b.at == nil {
			b.at = make(map[origin.Digest]uint32)
		}
		i = uint32(len(b.packs))
		b.at[p.digest] = i
		b.packs = append(b.packs, p)
	}
	b.places = append(b.places, place{id, i, off, length})
}
