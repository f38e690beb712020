package pack

import (
	"fmt"
	"iter"

	"github.com/rivuletfs/rivulet/blockmap"
)

// MaxMetadataBytes bounds the stored bytes of the chunks of a metadata object. The
// tables and directories of some 300,000 files take that; what does not fit is read
// chunk by chunk, as everything is without the object.
const MaxMetadataBytes = 8 << 20

// MaxMetadataObject bounds a metadata object in bytes, with its index.
const MaxMetadataObject = MaxMetadataBytes + MaxMetadataBytes/4

// Outside returns the chunks of a disk that lie in no layer's slot, with their
// positions in m, by rising index: the file system's own blocks and, on a disk that
// somebody wrote to, what was written. Any map will do, locked or not.
func Outside(m *blockmap.Map) iter.Seq2[int, blockmap.Chunk] {
	return func(yield func(int, blockmap.Chunk) bool) {
		layers := m.Layers()
		for i := 0; i < m.Len(); {
			c := m.Chunk(i)
			for len(layers) > 0 && layers[0].First+layers[0].Slot <= c.Index {
				layers = layers[1:]
			}
			if len(layers) > 0 && c.Index >= layers[0].First {
				i, _ = m.Search(layers[0].First + layers[0].Slot)
				continue
			}
			if !yield(i, c) {
				return
			}
			i++
		}
	}
}

// Fit returns how many of the chunks of these stored sizes, from the first on, a
// metadata object has: as many as MaxMetadataBytes hold.
func Fit(stored iter.Seq[uint32]) int {
	n, sum := 0, int64(0)
	for s := range stored {
		if sum += int64(s); sum > MaxMetadataBytes {
			break
		}
		n++
	}
	return n
}

// InMetadata returns the chunks that the metadata object of a published image has, in its
// order.
func InMetadata(m *blockmap.Map) []blockmap.Chunk {
	var list []blockmap.Chunk
	n := Fit(func(yield func(uint32) bool) {
		for _, c := range Outside(m) {
			list = append(list, c)
			if !yield(c.Stored) {
				return
			}
		}
	})
	return list[:n]
}

// Metadata returns the metadata object of a published image: the chunks of Outside, as
// far as they Fit, each once, read by read, which returns what is stored under an ID.
// So whoever has an image's chunks can make the object again; it is the right one if
// it has the digest that the block map names.
func Metadata(m *blockmap.Map, read func(c *blockmap.Chunk) ([]byte, error)) ([]byte, error) {
	var b Builder
	for _, c := range InMetadata(m) {
		object, err := read(&c)
		if err == nil {
			err = b.AddObject(object)
		}
		if err != nil {
			return nil, fmt.Errorf("metadata of %v: %w", m, err)
		}
	}
	return b.Bytes(), nil
}
