//go:build !race

// Under the race detector sync.Pool drops things at random.

package cachedclient

import (
	"testing"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// TestHitAllocations reads what is held: by the page, across pages and frames,
// from the header, and all of it.
func TestHitAllocations(t *testing.T) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	c := client(t, d.Socket, nil)
	r := c.Reader(chunk.NewDoor(origin), origin)
	dst := make([]byte, len(o.Bytes))
	for _, at := range [][2]int64{{0, int64(len(dst))}, {o.Header.FrameOffset(3), 4096}, {o.Header.FrameOffset(2) + 100, 4096}, {400, 70_000}, {3, 20}} {
		allocs := testing.AllocsPerRun(50, func() {
			if _, err := r.ReadChunk(ctx, o.ID, dst[:at[1]], at[0]); err != nil {
				t.Fatal(err)
			}
		})
		if allocs >= 1 {
			t.Errorf("%d bytes at %d: %v allocations", at[1], at[0], allocs)
		}
	}
	if s := c.Stats(); s.Asks > 3 {
		t.Errorf("%d questions to the daemon", s.Asks)
	}
}
