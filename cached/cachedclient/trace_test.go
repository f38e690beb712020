package cachedclient

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
)

// TestDownloadBeforeWait reads a chunk whose download, by the read's own request, has
// ended before the read comes to wait for it, so that the daemon answers as if it always
// had it: the read counts as the origin's, and the next one as the cache's.
func TestDownloadBeforeWait(t *testing.T) {
	o := chunks(1)[0]
	var gets atomic.Int32
	file := fileWith(t, o.Bytes)
	socket := impostor(t, func(c *wire.Conn, m *wire.Message) bool {
		switch m.Type {
		case wire.Get:
			if gets.Add(1) == 1 {
				return c.Write(wire.Lease, m.Request, wire.Right{Lease: 1, Millis: 1000}.Append, nil) == nil
			}
			size := uint32(len(o.Bytes))
			return c.Write(wire.Hit, m.Request, wire.Held{Size: size, Checked: size}.Append, file) == nil
		case wire.Fetch:
			time.Sleep(20 * time.Millisecond)
		}
		return c.Write(wire.Done, m.Request, nil, nil) == nil
	})
	c, origin := client(t, socket, nil), cachedtest.NewOrigin(t, o)
	r := c.Reader(gone{}, origin)
	for i, want := range []chunk.Tier{chunk.Origin, chunk.HostCache} {
		var trace chunk.Trace
		b := make([]byte, len(o.Bytes))
		if n, err := r.ReadChunk(chunk.WithTrace(ctx, &trace), o.ID, b, 0); err != nil || n != len(b) {
			t.Fatal(n, err)
		}
		if got := trace.Reached(); got != want {
			t.Errorf("read %d counts as one of %v, want %v", i+1, got, want)
		}
		steps, _ := trace.Steps()
		if i == 0 && (len(steps) != 2 || steps[0].Took < 20*time.Millisecond || steps[0].Bytes != len(b) || steps[0].Begun.Before(steps[1].Begun)) {
			t.Errorf("steps %+v, want the origin within the cache", steps)
		}
	}
	if n := gets.Load(); n != 2 {
		t.Errorf("%d questions, want 2", n)
	}
}
