package chunk_test

import (
	"errors"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

func TestExtractSets(t *testing.T) {
	o := chunktest.Random(1, 3*chunk.FrameSize, chunk.FrameSize)
	many := chunktest.Random(2, 65*chunk.MinFrameSize, chunk.MinFrameSize)
	for _, tt := range []struct {
		header *chunk.Header
		e      chunk.Extract
		want   chunk.Extract
		fails  bool
	}{
		{&o.Header, 0b101, 0b101, false},
		{&o.Header, 0b111, 0, false},
		{&o.Header, 0, 0, false},
		{&o.Header, 0b1000, 0, true},
		{&many.Header, 1, 0, false},
	} {
		if got, err := tt.e.Of(tt.header); got != tt.want || (err != nil) != tt.fails {
			t.Errorf("%x of %d frames: %x, %v; want %x", tt.e, len(tt.header.Frames), got, err, tt.want)
		}
	}
	for _, tt := range []struct {
		e, o chunk.Extract
		want bool
	}{{0, 0, true}, {0, 5, true}, {5, 0, false}, {5, 4, true}, {5, 6, false}, {5, 5, true}} {
		if tt.e.Covers(tt.o) != tt.want {
			t.Errorf("%x covers %x: %v", tt.e, tt.o, !tt.want)
		}
	}
	if ctx := t.Context(); chunk.ExtractOf(ctx) != 0 || chunk.ExtractOf(chunk.WithExtract(ctx, 5)) != 5 {
		t.Error("a context does not tell its frames")
	}
}

// TestExtractChecker: an extract passes in pieces, and no other bytes do.
func TestExtractChecker(t *testing.T) {
	o := chunktest.Random(1, 5*chunk.MinFrameSize-100, chunk.MinFrameSize)
	for _, e := range []chunk.Extract{0b1, 0b10000, 0b01010, 0b11110} {
		object := append([]byte(nil), o.Bytes[:o.Header.Len()]...)
		for i := range o.Header.Frames {
			if e.Has(i) {
				object = append(object, o.Bytes[o.Header.FrameOffset(i):o.Header.FrameOffset(i+1)]...)
			}
		}
		c := e.NewChecker(o.ID)
		for at := 0; at < len(object); at += 1000 {
			if _, err := c.Write(object[at:min(at+1000, len(object))]); err != nil {
				t.Fatalf("frames %b: %v", e, err)
			}
		}
		if !c.Complete() || c.Size() != int64(len(object)) || e.Size(&o.Header) != c.Size() {
			t.Errorf("frames %b: complete %v, %d bytes, want %d", e, c.Complete(), c.Size(), len(object))
		}
		var corrupt *chunk.CorruptError
		if _, err := c.Write([]byte{0}); !errors.As(err, &corrupt) {
			t.Errorf("frames %b, a byte more: %v", e, err)
		}
		object[len(object)-1] ^= 1
		if _, err := e.NewChecker(o.ID).Write(object); !errors.As(err, &corrupt) {
			t.Errorf("frames %b, a flipped bit: %v", e, err)
		}
	}
	for _, e := range []chunk.Extract{0b11111, 0b100001} {
		var corrupt *chunk.CorruptError
		if _, err := e.NewChecker(o.ID).Write(o.Bytes); !errors.As(err, &corrupt) {
			t.Errorf("frames %b, which are no extract: %v", e, err)
		}
	}
}
