package disk

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// TestWaiting looks at reads that wait, and at where the bytes came from.
func TestWaiting(t *testing.T) {
	im := newImage(t, 5, 73)
	synctest.Test(t, func(t *testing.T) {
		src := &chunktest.Slow{Source: im.chunks, Latency: time.Minute / 6}
		d := im.open(t, chunk.Traced(chunk.NewDoor(src), chunk.Zone), Options{Fetches: 1})
		if n, longest := d.Waiting(); n != 0 || longest != 0 {
			t.Errorf("%d pieces wait for %v before any read", n, longest)
		}
		var reads sync.WaitGroup
		for i := range int64(2) {
			reads.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				if _, err := d.ReadAt(make([]byte, 1), i*chunkSize); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n, longest := d.Waiting(); n != 2 || longest != 3*time.Second {
			t.Errorf("%d pieces wait for %v, want 2 for 3 s", n, longest)
		}
		reads.Wait()
		synctest.Wait() // the rest of the chunk is decoded behind the read
		if n, longest := d.Waiting(); n != 0 || longest != 0 {
			t.Errorf("%d pieces wait for %v after all reads", n, longest)
		}
		if s := d.Stats(); s.FromZone != 2 || s.FromCache != 0 || s.FromOrigin != 0 {
			t.Errorf("fetches are counted as %+v", s)
		}
	})
}
