package pack

import (
	"context"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// Bounds of a start pack. It comes in parts, each a pack and an object of its own: one
// request brings one, the first is of use before the last is there, and each is checked as
// a whole.
const (
	PartBytes    = 2 << 20 // a part is closed when it has so many
	MaxPartBytes = PartBytes + 4<<20
	MaxParts     = 48
)

// A Want is frames of a chunk.
type Want struct {
	Pos    int      // of the chunk, in the block map
	Frames []uint16 // by rising number
}

// Start returns the parts of a start pack: the frames that are wanted, in that order,
// read from r, which has checked them. What does not fit into MaxParts is left out: a
// start reads the first ones first.
func Start(ctx context.Context, m *blockmap.Map, wants []Want, r chunk.Reader) ([][]byte, error) {
	var parts [][]byte
	b := &Builder{}
	buf := make([]byte, chunk.MaxStoredSize)
	for _, w := range wants {
		if w.Pos < 0 || w.Pos >= m.Len() {
			return nil, fmt.Errorf("start pack: chunk %d: the disk has %d", w.Pos, m.Len())
		}
		if b.Len() >= PartBytes {
			if parts = append(parts, b.Bytes()); len(parts) == MaxParts {
				return parts, nil
			}
			b = &Builder{}
		}
		c := m.Chunk(w.Pos)
		if err := addFrames(ctx, b, &c, w.Frames, r, buf); err != nil {
			return nil, fmt.Errorf("start pack: %w", err)
		}
	}
	if b.Frames() > 0 {
		parts = append(parts, b.Bytes())
	}
	return parts, nil
}

// addFrames adds frames of a chunk, which it reads whole: who builds a pack is in no hurry.
func addFrames(ctx context.Context, b *Builder, c *blockmap.Chunk, frames []uint16, r chunk.Reader, buf []byte) error {
	if int64(c.Stored) > int64(len(buf)) {
		return fmt.Errorf("chunk %v: %d bytes stored", c.ID, c.Stored)
	}
	buf = buf[:c.Stored]
	n, err := r.ReadChunk(ctx, c.ID, buf, 0)
	if err == nil && n != len(buf) {
		err = &chunk.CorruptError{ID: c.ID, Reason: fmt.Sprintf("%d bytes, want %d", n, len(buf))}
	}
	if err != nil {
		return err
	}
	h, err := chunk.ParseHeader(buf)
	if err != nil {
		return fmt.Errorf("chunk %v: %w", c.ID, err)
	}
	if h.ID() != c.ID || h.StoredSize() != int64(c.Stored) {
		return fmt.Errorf("chunk %v: %w", c.ID, errors.New("its header is another chunk's"))
	}
	for _, i := range frames {
		if int(i) >= len(h.Frames) {
			return fmt.Errorf("frame %d of chunk %v: it has %d", i, c.ID, len(h.Frames))
		}
		off := h.FrameOffset(int(i))
		if err := b.Add(&h, int(i), buf[off:off+int64(h.Frames[i].Len)]); err != nil {
			return err
		}
	}
	return nil
}
