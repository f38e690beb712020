package disk

import (
	"context"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

// TestFetchTellsFrames: who is asked for frames of a chunk is told which ones; for all of it, or
// for a read, nothing is told.
func TestFetchTellsFrames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		mode   Mode
		frames Frames
		want   chunk.Extract
	}{
		{"some", SingleFrames, only(1, 3, 4), 0b11010},
		{"some, of a far chunk", WholeChunks, only(1, 3), 0b1010},
		{"all", SingleFrames, only(0, 1, 2, 3, 4, 5, 6, 7), 0},
		{"nearly all, of a far chunk", WholeChunks, only(0, 1, 2, 3, 4, 5), 0},
		{"a read", SingleFrames, only(), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			im := newImage(t, 3, 3)
			r := im.reader()
			var mu sync.Mutex
			told := make(map[chunk.Extract]bool)
			r.before = func(ctx context.Context, _ int) error {
				mu.Lock()
				defer mu.Unlock()
				told[chunk.ExtractOf(ctx)] = true
				return nil
			}
			d := im.open(t, r, Options{Mode: tt.mode})
			if tt.frames.Len() == 0 {
				im.check(t, d, 0, 100)
			} else if _, err := d.Fetch(t.Context(), 0, tt.frames); err != nil {
				t.Fatal(err)
			}
			if len(told) != 1 || !told[tt.want] {
				t.Errorf("told of %v, want %x alone", told, tt.want)
			}
		})
	}
}
