package blockmap

import (
	"encoding/binary"
	"fmt"
)

// Widths in bytes. The header's fields stand in encodeHeader and decodeHeader,
// which mirror each other, and in doc/format/blockmap.md.
const (
	headerBytes = 256
	layerBytes  = 88
	chunkBytes  = 44
	keyBytes    = 32
	tagBytes    = 16
	alignment   = 64 // of the chunk table and the key table
)

const magic = "RVBLKMAP"

// A plan is where the parts of a map lie: a function of their lengths alone,
// so that a map has no freedom in it.
type plan struct {
	nLayers, nChunks, nConfig            int
	layers, chunks, keys, config, length int64 // byte offsets, and the whole
}

// newPlan lays out parts whose lengths are within the bounds.
func newPlan(nLayers, nChunks, nConfig int) plan {
	p := plan{nLayers: nLayers, nChunks: nChunks, nConfig: nConfig}
	p.layers = headerBytes
	p.chunks = align(p.layers + int64(nLayers)*layerBytes)
	p.keys = align(p.chunks + int64(nChunks)*chunkBytes)
	p.config = p.keys + int64(nChunks)*keyBytes // what is locked has no gaps
	p.length = p.config + int64(nConfig) + tagBytes
	return p
}

func align(n int64) int64 { return (n + alignment - 1) &^ (alignment - 1) }

// Encode returns the one encoding of a map of chunks, which must rise by
// index, or says what the format does not allow.
//
// To lock a map, encode it with Lock.Kind and Lock.Nonce set, a zero tag, and
// keys and configuration in the clear, and encrypt the second of Map.Parts in
// place: its last bytes are where AES-256-GCM puts the tag.
func Encode(info *Info, chunks []Chunk) ([]byte, error) {
	if len(info.Layers) > MaxLayers || len(chunks) > MaxChunks || len(info.Config) > MaxConfigBytes {
		return nil, fmt.Errorf("encode block map: %d layers, %d chunks, %d bytes of configuration: at most %d, %d, %d: %w",
			len(info.Layers), len(chunks), len(info.Config), MaxLayers, MaxChunks, MaxConfigBytes, ErrFormat)
	}
	p := newPlan(len(info.Layers), len(chunks), len(info.Config))
	b := make([]byte, p.length)
	encodeHeader(b, info, &p)
	for i := range info.Layers {
		encodeLayer(b[p.layers+int64(i)*layerBytes:], &info.Layers[i])
	}
	for i := range chunks {
		c := &chunks[i]
		e := b[p.chunks+int64(i)*chunkBytes:]
		binary.LittleEndian.PutUint32(e[0:], c.Index)
		binary.LittleEndian.PutUint32(e[4:], c.Stored)
		binary.LittleEndian.PutUint32(e[8:], c.Size)
		copy(e[12:], c.ID[:])
		copy(b[p.keys+int64(i)*keyBytes:], c.Key[:])
	}
	copy(b[p.config:], info.Config)
	copy(b[p.length-tagBytes:], info.Lock.Tag[:])

	// The rules stand in one place: what Parse refuses is never written.
	if _, err := Parse(b); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return b, nil
}

func encodeHeader(b []byte, info *Info, p *plan) {
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], Version)
	le.PutUint32(b[12:], info.Layout)
	le.PutUint64(b[16:], uint64(info.Size))
	le.PutUint32(b[24:], uint32(info.ChunkLog2))
	le.PutUint32(b[28:], uint32(info.FrameLog2))
	copy(b[32:], info.Disk[:])
	copy(b[64:], info.Source[:])
	copy(b[96:], info.ChainID[:])
	copy(b[128:], info.Metadata[:])
	copy(b[160:], info.SaltID[:])
	le.PutUint32(b[176:], uint32(info.Lock.Kind))
	copy(b[180:], info.Lock.Nonce[:])
	le.PutUint64(b[192:], uint64(p.layers))
	le.PutUint32(b[200:], uint32(p.nLayers))
	le.PutUint32(b[204:], layerBytes)
	le.PutUint64(b[208:], uint64(p.chunks))
	le.PutUint32(b[216:], uint32(p.nChunks))
	le.PutUint32(b[220:], chunkBytes)
	le.PutUint64(b[224:], uint64(p.keys))
	le.PutUint64(b[232:], uint64(p.config))
	le.PutUint64(b[240:], uint64(p.nConfig))
	le.PutUint64(b[248:], uint64(p.length))
}

func encodeLayer(e []byte, l *Layer) {
	copy(e[0:], l.DiffID[:])
	copy(e[32:], l.Compressed[:])
	binary.LittleEndian.PutUint64(e[64:], uint64(l.CompressedSize))
	binary.LittleEndian.PutUint32(e[72:], l.First)
	binary.LittleEndian.PutUint32(e[76:], l.Slot)
	binary.LittleEndian.PutUint32(e[80:], l.Segment)
}
