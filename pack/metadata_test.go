package pack

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// diskOf returns the map of a disk of two slots, 2 to 4 and 6 to 9, with chunks at the
// given indexes.
func diskOf(t *testing.T, stored func(index uint32) uint32, indexes ...uint32) *blockmap.Map {
	t.Helper()
	info := &blockmap.Info{Layout: 1, Size: 64 << 19, ChunkLog2: 19, FrameLog2: 14, Layers: []blockmap.Layer{
		{First: 2, Slot: 3, Segment: 1}, {First: 6, Slot: 4, Segment: 4}, {First: 10},
	}}
	var chunks []blockmap.Chunk
	for _, i := range indexes {
		chunks = append(chunks, blockmap.Chunk{Index: i, Stored: stored(i), Size: 512, ID: chunk.ID{byte(i)}})
	}
	b, err := blockmap.Encode(info, chunks)
	if err != nil {
		t.Fatal(err)
	}
	m, err := blockmap.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestOutside(t *testing.T) {
	m := diskOf(t, func(uint32) uint32 { return 100 }, 0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 60)
	var got []uint32
	for i, c := range Outside(m) {
		if m.Chunk(i) != c {
			t.Errorf("position %d is not that of chunk %d", i, c.Index)
		}
		got = append(got, c.Index)
	}
	if want := []uint32{0, 1, 5, 10, 11, 60}; !slices.Equal(got, want) {
		t.Errorf("outside of the slots: %v, want %v", got, want)
	}
	for range Outside(diskOf(t, nil)) {
		t.Error("a disk without chunks has one")
	}
}

// TestMetadata makes an object, of what fits into it.
func TestMetadata(t *testing.T) {
	const large = 512 << 10
	m := diskOf(t, func(i uint32) uint32 {
		if i < 2 {
			return 1000
		}
		return large
	}, 0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27)
	fit := MaxMetadataBytes/large - 1 // beside the two small ones
	var asked []uint32
	b, err := Metadata(m, func(c *blockmap.Chunk) ([]byte, error) {
		asked = append(asked, c.Index)
		o := chunktest.Random(uint64(c.Index)%3, 300, chunk.MinFrameSize) // some are the same
		return o.Bytes, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(asked) != 2+fit || asked[0] != 0 || asked[2] != 10 {
		t.Errorf("made of chunks %v; want 0, 1 and %d from 10 on", asked, fit)
	}
	x, _, err := decode(b)
	if err != nil || len(x.Chunks) != 3 {
		t.Errorf("%v, want a pack of 3 chunks", err)
	}
	away := errors.New("away")
	if _, err := Metadata(m, func(*blockmap.Chunk) ([]byte, error) { return nil, away }); !errors.Is(err, away) {
		t.Errorf("error %v, want that of read", err)
	}
	empty, err := Metadata(diskOf(t, nil), nil)
	if err != nil || !bytes.Equal(empty, new(Builder).Bytes()) {
		t.Errorf("of no chunks: %d bytes, %v", len(empty), err)
	}
}
