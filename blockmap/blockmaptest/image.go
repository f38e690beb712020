// Package blockmaptest makes small images for tests: a block map and the chunks
// that it names. Their disks hold no file system, and their chunks are not sealed.
package blockmaptest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

// An Image is a block map with its chunks.
type Image struct {
	Map    *blockmap.Map
	Chunks []chunktest.Object
}

// New returns the image of the given chunks, in that order. Its digests follow
// from seed. It panics for chunks that a block map cannot have.
func New(seed uint64, chunks ...chunktest.Object) *Image {
	digest := func(kind byte) origin.Digest {
		return sha256.Sum256(append(binary.LittleEndian.AppendUint64(nil, seed), kind))
	}
	info := &blockmap.Info{
		Layout: 1, Size: int64(len(chunks)) * chunk.Size,
		ChunkLog2: uint8(bits.TrailingZeros(chunk.Size)), FrameLog2: uint8(bits.TrailingZeros(chunk.FrameSize)),
		Disk: digest(1), Source: digest(2), ChainID: digest(3),
	}
	var list []blockmap.Chunk
	for i, c := range chunks {
		list = append(list, blockmap.Chunk{Index: uint32(i), Stored: uint32(len(c.Bytes)), Size: c.Header.Size, ID: c.ID})
	}
	b, err := blockmap.Encode(info, list)
	if err != nil {
		panic(err)
	}
	m, err := blockmap.Parse(b)
	if err != nil {
		panic(err)
	}
	return &Image{Map: m, Chunks: chunks}
}

// Small returns an image of n chunks of a few hundred bytes, which follow from
// seed like its digests.
func Small(seed uint64, n int) *Image {
	chunks := make([]chunktest.Object, n)
	for i := range chunks {
		chunks[i] = chunktest.Random(seed<<16|uint64(i), 100+i, chunk.FrameSize)
	}
	return New(seed, chunks...)
}

// Digest returns the digest of the block map.
func (i *Image) Digest() origin.Digest { return i.Map.Digest() }

// Put stores the chunks, and then the block map.
func (i *Image) Put(ctx context.Context, s origin.Store) error {
	for _, c := range i.Chunks {
		if _, err := s.Put(ctx, c.ID, c.Bytes); err != nil {
			return err
		}
	}
	if err := s.Flush(ctx); err != nil {
		return err
	}
	_, err := s.PutObject(ctx, i.Map.Bytes())
	return err
}
