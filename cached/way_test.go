package cached_test

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
)

// TestWay tells who waited what was asked for the chunk: a zone that lacks it, an origin
// that is down, and then a client that brought it. Who asks when it is there hears
// nothing of that.
func TestWay(t *testing.T) {
	o := full(1)
	z := &zone{objects: make(map[chunk.ID][]byte), filled: make(chan chunk.ID, 1)}
	d, origin := cachedtest.Start(t, func(c *cached.Config) { c.Zone, c.Lease = z, time.Minute }), cachedtest.NewOrigin(t, o)
	origin.Answer(func(w http.ResponseWriter, _ *http.Request, _ chunk.ID, _ []byte) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	a, b, c := talk(t, d.Socket), talk(t, d.Socket), talk(t, d.Socket)
	lease := a.lease(o.ID)
	b.get(o.ID, 0, 0, long)
	b.heard()
	c.get(o.ID, 0, 0, long)
	c.heard()
	a.fetch(lease, origin, o.ID)
	a.wait(wire.Done)
	r, err := wire.ParseRight(b.wait(wire.Lease).Payload)
	if err != nil {
		t.Fatal(err)
	}
	b.depositAll(r.Lease, o.Bytes)
	held := steps(t, c.wait(wire.Hit))
	want := []wire.Step{{Tier: chunk.Zone}, {Tier: chunk.Origin, End: wire.Failed}, {Tier: chunk.Origin, End: wire.Had, Bytes: uint32(len(o.Bytes))}}
	if len(held) != len(want) {
		t.Fatalf("steps %+v, want %+v", held, want)
	}
	for i, s := range held {
		if i > 0 && s.Ago > held[i-1].Ago {
			t.Errorf("step %d began before the one before it: %+v", i, held)
		}
		if s.Ago, s.Took = 0, 0; s != want[i] {
			t.Errorf("step %d: %+v, want %+v", i, s, want[i])
		}
	}
	a.get(o.ID, 0, 0, long)
	if held := steps(t, a.wait(wire.Hit)); len(held) != 0 {
		t.Errorf("a chunk that was there took %+v", held)
	}
	s := d.Server.Stats()
	if s.ZoneTime.Total() != 1 || s.DownloadTime.Total() != 1 || s.Corrupt != 0 || s.DownloadLimit.Passed != 1 || s.ZoneLimit.Passed != 1 {
		t.Errorf("times and limits: %+v", s)
	}
	<-z.filled
}

// TestWayThroughZone tells that the zone had it, and counts what the door refused.
func TestWayThroughZone(t *testing.T) {
	o, rotten := full(1), full(2)
	bad := bytes.Clone(rotten.Bytes)
	bad[len(bad)-1] ^= 1
	z := &zone{objects: map[chunk.ID][]byte{o.ID: o.Bytes, rotten.ID: bad}}
	d := cachedtest.Start(t, func(c *cached.Config) { c.Zone = z })
	k := talk(t, d.Socket)
	k.get(o.ID, 0, 0, long)
	m := k.wait(wire.Hit)
	if held := steps(t, m); len(held) != 1 || held[0].Tier != chunk.Zone || held[0].End != wire.Had || held[0].Bytes != uint32(len(o.Bytes)) {
		t.Errorf("steps %+v, want the zone", held)
	}
	k.lease(rotten.ID)
	if s := d.Server.Stats(); s.Corrupt != 1 {
		t.Errorf("%d chunks were refused at the door, want the zone's", s.Corrupt)
	}
}

// steps returns what an answer says, and closes what came with it.
func steps(t *testing.T, m wire.Message) []wire.Step {
	t.Helper()
	h, err := wire.ParseHeld(m.Payload)
	if err != nil {
		t.Fatal(err)
	}
	_ = m.File().Close()
	return h.Steps
}
