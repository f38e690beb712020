//go:build !race

// Under the race detector sync.Pool drops things at random.

package chunk_test

import (
	"context"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

func TestDoorAllocations(t *testing.T) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	door := chunk.NewDoor(holding(o))
	dst := make([]byte, len(o.Bytes))
	ctx := context.Background()
	for _, r := range [][2]int64{{0, int64(len(dst))}, {400, 4096}, {o.Header.FrameOffset(2), 65536}} {
		allocs := testing.AllocsPerRun(50, func() {
			if _, err := door.ReadChunk(ctx, o.ID, dst[:r[1]], r[0]); err != nil {
				t.Fatal(err)
			}
		})
		if allocs >= 1 {
			t.Errorf("%d bytes at %d: %v allocations", r[1], r[0], allocs)
		}
	}
}
