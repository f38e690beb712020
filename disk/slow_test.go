package disk

import (
	"context"
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

// TestMeter counts reads of two disks by what they needed, and what tiers answered.
func TestMeter(t *testing.T) {
	im := newImage(t, 5, 73)
	const latency = time.Second
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		near := &nearby{door: chunk.NewDoor(im.chunks), some: func(chunk.ID) bool { return true }}
		src := &chunktest.Slow{Source: im.chunks, Latency: latency}
		far := im.open(t, chunk.Traced(chunk.NewDoor(src), chunk.Origin), Options{Meter: &m})
		lost := im.open(t, chunk.Traced(chunk.NewDoor(objects{}), chunk.Zone), Options{Meter: &m})
		byPage := im.open(t, chunk.NewDoor(src), Options{Meter: &m, Near: near, Mode: SingleFrames})
		hung := im.open(t, chunk.Traced(stuck{}, chunk.Origin), Options{Meter: &m, Timeout: 10 * time.Second})
		b := make([]byte, 1)
		for range 1 + 10*memorySample {
			if _, err := far.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := lost.ReadAt(b, 0); !errors.Is(err, chunk.ErrNotFound) {
			t.Error(err)
		}
		if _, err := hung.ReadAt(b, 0); !errors.Is(err, ErrTimedOut) {
			t.Error(err)
		}
		raw := 0
		for i := range im.m.Len() {
			if c := im.m.Chunk(i); int(c.Stored) == chunk.HeaderLen(byPage.frames(&c))+int(c.Size) {
				raw++
				if _, err := byPage.ReadAt(b, int64(c.Index)*chunkSize); err != nil {
					t.Error(err)
				}
			}
		}
		synctest.Wait() // flights have counted
		s := m.Stats()
		for tier, want := range map[chunk.Tier][2]int64{ // reads, answers
			chunk.Nowhere: {2, 0}, chunk.Memory: {10 * memorySample, 0}, chunk.HostCache: {int64(raw), 0}, chunk.Zone: {0, 0}, chunk.Origin: {1, 1},
		} {
			if got := [2]int64{s[tier].Reads.Total(), s[tier].Had}; got != want {
				t.Errorf("%v: reads and answers %v, want %v", tier, got, want)
			}
		}
		if o := s[chunk.Origin]; o.Reads.Sum != latency || o.Slow != 1 || o.Failed == 0 || o.Asked.Total() != o.Had+o.Failed {
			t.Errorf("the origin: %+v", o)
		}
		if s[chunk.Zone].Lacked != 1 || s[chunk.Nowhere].Slow != 1 || raw == 0 {
			t.Errorf("a chunk that is not there counts as %+v; slow failures: %d; raw: %d", s[chunk.Zone], s[chunk.Nowhere].Slow, raw)
		}
		if h := hung.Stats(); h.Hung != 1 || h.Errors != 1 || lost.Stats().Hung != 0 {
			t.Errorf("a hung read counts as %+v", h)
		}
		var sum Stats
		for _, d := range []*Disk{far, lost, hung, byPage} {
			sum.Add(d.Stats())
		}
		if sum.Reads != far.Stats().Reads+2+int64(raw) || sum.Errors != 2 || sum.Hung != 1 || sum.Near != int64(raw) {
			t.Errorf("all disks together: %+v", sum)
		}
	})
}

// stuck never answers.
type stuck struct{}

func (stuck) ReadChunk(ctx context.Context, _ chunk.ID, _ []byte, _ int64) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}
