package disk

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// A diary keeps what OnSlow is told.
type diary struct {
	mu    sync.Mutex
	reads []*SlowRead
}

func (d *diary) tell(r *SlowRead) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads = append(d.reads, r)
}

// TestSlowReads reads from a store that takes 60 ms a request, where a read of two
// chunks waits for both at once and one of three requests after each other is slow.
func TestSlowReads(t *testing.T) {
	im := newImage(t, 5, 70)
	const latency = 60 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		var told diary
		src := &chunktest.Slow{Source: im.chunks, Latency: latency}
		d := im.open(t, chunk.Traced(chunk.NewDoor(src), chunk.Origin), Options{OnSlow: told.tell, Fetches: 1})
		b := make([]byte, 2*chunkSize)
		if _, err := d.ReadFor("fast", b[:100], 10); err != nil || len(told.reads) != 0 {
			t.Fatalf("a read of %v is told as slow: %v, %v", latency, told.reads, err)
		}
		if _, err := d.ReadFor("guest", b, 1*chunkSize); err != nil { // two chunks, one fetch at a time
			t.Fatal(err)
		}
		if _, err := d.ReadFor("warm", b, 1*chunkSize); err != nil {
			t.Fatal(err)
		}
		if len(told.reads) != 1 {
			t.Fatalf("%d slow reads, want 1", len(told.reads))
		}
		r := told.reads[0]
		if r.Reader != "guest" || r.Disk != im.m.Digest().String() || r.Offset != chunkSize || r.Length != len(b) ||
			r.Wait != 2*latency || r.Tier != chunk.Origin || r.Err != nil || len(r.Fetches) != 2 || r.More != 0 {
			t.Fatalf("the slow read is told as %+v", r)
		}
		for i, f := range r.Fetches {
			c := im.m.Chunk(i + 1)
			if f.Chunk != c.ID || f.Offset != int64(i+1)*chunkSize || f.Tier != chunk.Origin || f.Err != nil ||
				f.Demanded != r.Begun || f.Queued != time.Duration(i)*latency || len(f.Steps) != 1 || f.MoreSteps != 0 {
				t.Errorf("fetch %d is told as %+v", i, f)
			}
			s := f.Steps[0]
			if s.Tier != chunk.Origin || s.ID != c.ID || s.Bytes != int(c.Stored) || s.Took != latency || s.Begun != f.Demanded.Add(f.Queued) {
				t.Errorf("fetch %d: step %+v", i, s)
			}
		}
	})
}

// TestFailedReads has reads that fail, fast ones too, told as such.
func TestFailedReads(t *testing.T) {
	im := newImage(t, 5, 71)
	synctest.Test(t, func(t *testing.T) {
		var told diary
		d := im.open(t, chunk.Traced(chunk.NewDoor(objects{}), chunk.Origin), Options{OnSlow: told.tell})
		if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, chunk.ErrNotFound) {
			t.Fatal(err)
		}
		if len(told.reads) != 1 {
			t.Fatalf("%d reads are told, want 1", len(told.reads))
		}
		r := told.reads[0]
		if !errors.Is(r.Err, chunk.ErrNotFound) || r.Tier != chunk.Nowhere || len(r.Fetches) != 1 || !errors.Is(r.Fetches[0].Err, chunk.ErrNotFound) {
			t.Errorf("the read is told as %+v", r)
		}
	})
}

// TestSlowReadIsBounded reads more chunks at once than a SlowRead tells of.
func TestSlowReadIsBounded(t *testing.T) {
	im := newImage(t, 40, 72)
	synctest.Test(t, func(t *testing.T) {
		var told diary
		src := &chunktest.Slow{Source: im.chunks, Latency: time.Second}
		d := im.open(t, chunk.NewDoor(src), Options{OnSlow: told.tell})
		if _, err := d.ReadAt(make([]byte, len(im.flat)), 0); err != nil {
			t.Fatal(err)
		}
		if len(told.reads) != 1 || len(told.reads[0].Fetches) != MaxSlowFetches || told.reads[0].More != im.m.Len()-MaxSlowFetches {
			t.Errorf("%d chunks are told as %+v", im.m.Len(), told.reads)
		}
	})
}
