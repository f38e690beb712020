package blockmap

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// sectorBytes is the unit of a disk's size.
const sectorBytes = 512

func malformed(format string, args ...any) error {
	return fmt.Errorf("block map: %s: %w", fmt.Sprintf(format, args...), ErrFormat)
}

// Parse checks b and returns the map in it. The map keeps b, which must not
// change afterwards; apart from the layers nothing is copied. Bytes that break
// a rule of the format are ErrFormat or ErrVersion, wrapped.
func Parse(b []byte) (*Map, error) {
	if len(b) < headerBytes || string(b[:len(magic)]) != magic {
		return nil, malformed("no header")
	}
	switch v := binary.LittleEndian.Uint32(b[8:]); v {
	case Version:
	case 1:
		return nil, fmt.Errorf("block map: version 1, published by an older version; publish again: %w", ErrVersion)
	default:
		return nil, fmt.Errorf("block map: version %d, want %d: %w", v, Version, ErrVersion)
	}
	p, err := decodePlan(b)
	if err != nil {
		return nil, err
	}
	m := &Map{bytes: b, plan: p, digest: origin.Sum(b)}
	if err := m.decodeHeader(); err != nil {
		return nil, err
	}
	m.locked = m.info.Lock.Kind != LockOpen
	m.keys = b[p.keys:p.config:p.config]
	if end := p.length - tagBytes; !m.locked {
		m.info.Config = b[p.config:end:end]
	}
	if err := m.decodeLayers(); err != nil {
		return nil, err
	}
	if err := m.checkChunks(); err != nil {
		return nil, err
	}
	for _, gap := range [][]byte{
		b[p.layers+int64(p.nLayers)*layerBytes : p.chunks],
		b[p.chunks+int64(p.nChunks)*chunkBytes : p.keys],
	} {
		if !zero(gap) {
			return nil, malformed("padding is not zero")
		}
	}
	return m, nil
}

// decodePlan reads the counts, and checks that offsets, widths and the length
// of b are what follows from them.
func decodePlan(b []byte) (plan, error) {
	le := binary.LittleEndian
	nLayers, nChunks, nConfig := le.Uint32(b[200:]), le.Uint32(b[216:]), le.Uint64(b[240:])
	switch {
	case nLayers > MaxLayers:
		return plan{}, malformed("%d layers, at most %d", nLayers, MaxLayers)
	case nChunks > MaxChunks:
		return plan{}, malformed("%d chunks, at most %d", nChunks, MaxChunks)
	case nConfig > MaxConfigBytes:
		return plan{}, malformed("configuration of %d bytes, at most %d", nConfig, MaxConfigBytes)
	}
	p := newPlan(int(nLayers), int(nChunks), int(nConfig))
	switch {
	case le.Uint32(b[204:]) != layerBytes || le.Uint32(b[220:]) != chunkBytes:
		return plan{}, malformed("table entries of %d and %d bytes, want %d and %d",
			le.Uint32(b[204:]), le.Uint32(b[220:]), layerBytes, chunkBytes)
	case le.Uint64(b[192:]) != uint64(p.layers), le.Uint64(b[208:]) != uint64(p.chunks),
		le.Uint64(b[224:]) != uint64(p.keys), le.Uint64(b[232:]) != uint64(p.config):
		return plan{}, malformed("a part is not where the counts put it")
	case le.Uint64(b[248:]) != uint64(p.length):
		return plan{}, malformed("length field %d, want %d", le.Uint64(b[248:]), p.length)
	case int64(len(b)) != p.length:
		return plan{}, malformed("%d bytes, want %d", len(b), p.length)
	}
	return p, nil
}

func (m *Map) decodeHeader() error {
	le, b, info := binary.LittleEndian, m.bytes, &m.info
	size, chunkLog2, frameLog2 := le.Uint64(b[16:]), le.Uint32(b[24:]), le.Uint32(b[28:])
	switch {
	case size == 0 || size > MaxDiskBytes || size%sectorBytes != 0:
		return malformed("disk of %d bytes", size)
	case !within(chunkLog2, chunk.MinSize, chunk.MaxSize):
		return malformed("chunk size 2^%d", chunkLog2)
	case !within(frameLog2, chunk.MinFrameSize, chunk.MaxFrameSize) || frameLog2 > chunkLog2:
		return malformed("frame size 2^%d of chunk size 2^%d", frameLog2, chunkLog2)
	}
	info.Layout = le.Uint32(b[12:])
	info.Size = int64(size)
	info.ChunkLog2, info.FrameLog2 = uint8(chunkLog2), uint8(frameLog2)
	copy(info.Disk[:], b[32:])
	copy(info.Source[:], b[64:])
	copy(info.ChainID[:], b[96:])
	copy(info.Metadata[:], b[128:])
	copy(info.SaltID[:], b[160:])

	info.Lock.Kind = LockKind(le.Uint32(b[176:]))
	copy(info.Lock.Nonce[:], b[180:])
	copy(info.Lock.Tag[:], b[m.plan.length-tagBytes:])
	switch {
	case info.Lock.Kind > LockAES256GCM:
		return malformed("lock of unknown kind %d", info.Lock.Kind)
	case info.Lock.Kind == LockOpen && info.Lock != Lock{}:
		return malformed("open, but nonce or tag is not zero")
	}
	return nil
}

// within reports whether 2^log2 lies in [min, max], both powers of two.
func within(log2 uint32, min, max uint) bool {
	return log2 >= uint32(bits.Len(min)-1) && log2 <= uint32(bits.Len(max)-1)
}

func (m *Map) decodeLayers() error {
	le := binary.LittleEndian
	m.info.Layers = make([]Layer, m.plan.nLayers)
	end := uint64(0) // of the slot before, in chunks
	for i := range m.info.Layers {
		e, l := m.bytes[m.plan.layers+int64(i)*layerBytes:][:layerBytes], &m.info.Layers[i]
		size := le.Uint64(e[64:])
		copy(l.DiffID[:], e[0:])
		copy(l.Compressed[:], e[32:])
		l.CompressedSize = int64(size)
		l.First, l.Slot, l.Segment = le.Uint32(e[72:]), le.Uint32(e[76:]), le.Uint32(e[80:])
		switch {
		case size > math.MaxInt64:
			return malformed("layer %d: compressed size %d", i, size)
		case uint64(l.First) < end:
			return malformed("layer %d: slot begins at chunk %d, inside the one before", i, l.First)
		case l.Segment > l.Slot:
			return malformed("layer %d: segment of %d chunks in a slot of %d", i, l.Segment, l.Slot)
		case !zero(e[84:]):
			return malformed("layer %d: padding is not zero", i)
		}
		end = uint64(l.First) + uint64(l.Slot)
		if end > uint64(m.info.Span()) {
			return malformed("layer %d: slot ends at chunk %d of %d", i, end, m.info.Span())
		}
	}
	return nil
}

func (m *Map) checkChunks() error {
	slots, chunkSize := m.info.Span(), m.info.ChunkSize()
	next := int64(0) // lowest index allowed
	for i := range m.plan.nChunks {
		e := m.entry(i)
		index, stored, size := int64(entryIndex(e)), entryStored(e), int64(entrySize(e))
		switch {
		case index < next:
			return malformed("chunk entry %d: index %d does not rise", i, index)
		case index >= slots:
			return malformed("chunk entry %d: index %d of %d", i, index, slots)
		case size == 0 || size > min(chunkSize, m.info.Size-index*chunkSize):
			return malformed("chunk %d: %d bytes of plaintext", index, size)
		case stored == 0 || int64(stored) > int64(MaxStored(int(chunkSize))):
			return malformed("chunk %d: stored as %d bytes", index, stored)
		}
		next = index + 1
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
