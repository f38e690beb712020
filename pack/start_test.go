package pack

import (
	"bytes"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/memory"
)

// TestStart: the parts of a start pack have the frames that are wanted, in their order, and
// what they have is what the chunks have.
func TestStart(t *testing.T) {
	img := blockmaptest.Small(1, 4)
	s := memory.New().Generation(1)
	if err := img.Put(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	r := chunk.NewDoor(s)
	wants := []Want{{Pos: 2, Frames: []uint16{0}}, {Pos: 0, Frames: []uint16{0}}}
	parts, err := Start(t.Context(), img.Map, wants, r)
	if err != nil || len(parts) != 1 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	d, err := NewDecoder(bytes.NewReader(parts[0]))
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range wants {
		n, stored, err := d.Next()
		if err != nil || n != i {
			t.Fatalf("frame %d of the pack: %d, %v", i, n, err)
		}
		c := img.Map.Chunk(w.Pos)
		if got := d.Index.Chunks[d.Index.Frames[i].Chunk]; got.ID != c.ID {
			t.Errorf("frame %d is of %v, want %v", i, got.ID, c.ID)
		}
		want := make([]byte, c.Stored)
		if _, err := r.ReadChunk(t.Context(), c.ID, want, 0); err != nil {
			t.Fatal(err)
		}
		h, err := chunk.ParseHeader(want)
		if err != nil {
			t.Fatal(err)
		}
		if from := h.FrameOffset(0); !bytes.Equal(stored, want[from:from+int64(h.Frames[0].Len)]) {
			t.Errorf("frame %d has other bytes", i)
		}
	}
	for _, bad := range [][]Want{{{Pos: 4}}, {{Pos: -1}}, {{Pos: 0, Frames: []uint16{1000}}}} {
		if _, err := Start(t.Context(), img.Map, bad, r); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}
