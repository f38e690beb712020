package cached_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// A zone in memory.
type zone struct {
	mu      sync.Mutex
	objects map[chunk.ID][]byte
	bad     bool
	filled  chan chunk.ID
}

func (z *zone) Offer(_ context.Context, id chunk.ID, take func([]byte) error) error {
	z.mu.Lock()
	b, ok := z.objects[id]
	b = bytes.Clone(b)
	if z.bad && ok {
		b[len(b)-1] ^= 1
	}
	z.mu.Unlock()
	if !ok {
		return fmt.Errorf("zone: %w", chunk.ErrNotFound)
	}
	defer clear(b) // which is not the taker's any more
	return take(b)
}

func (z *zone) Fill(id chunk.ID, object []byte) {
	z.mu.Lock()
	z.objects[id] = bytes.Clone(object)
	z.mu.Unlock()
	z.filled <- id
}

// TestZone reads what the zone has from there, fills it with what came from an
// origin, and believes nothing that it says.
func TestZone(t *testing.T) {
	o, big, fresh := full(1), chunktest.Random(3, chunk.MaxSize, chunk.FrameSize), full(2)
	z := &zone{objects: map[chunk.ID][]byte{o.ID: o.Bytes, big.ID: big.Bytes}, filled: make(chan chunk.ID, 9)}
	d := cachedtest.Start(t, func(c *cached.Config) { c.Zone = z })
	origin := cachedtest.NewOrigin(t, fresh)
	k := talk(t, d.Socket)
	for _, have := range []chunktest.Object{o, big} {
		k.get(have.ID, 0, 0, long)
		check(t, k.wait(wire.Hit), &have)
	}
	k.fetch(k.lease(fresh.ID), origin, fresh.ID)
	k.wait(wire.Done)
	if id := <-z.filled; id != fresh.ID {
		t.Errorf("filled with %v", id)
	}
	z.mu.Lock()
	z.bad = true
	z.objects[full(4).ID] = full(4).Bytes
	z.mu.Unlock()
	k.lease(full(4).ID)
	eventually(t, "two hits and two misses are counted", func() bool { // clients have a chunk before it is
		s := d.Server.Stats()
		return s.ZoneHits == 2 && s.ZoneMisses == 2
	})
}

// A hungZone answers nobody before it is let go, and counts who waits.
type hungZone struct {
	gate    chan struct{}
	mu      sync.Mutex
	at      int
	highest int
}

func (z *hungZone) Offer(context.Context, chunk.ID, func([]byte) error) error {
	z.mu.Lock()
	z.at++
	z.highest = max(z.highest, z.at)
	z.mu.Unlock()
	<-z.gate
	z.mu.Lock()
	defer z.mu.Unlock()
	z.at--
	return chunk.ErrNotFound
}

func (*hungZone) Fill(chunk.ID, []byte) {}

// TestLooksBounded asks for many chunks without waiting for them, over a zone that
// hangs: what goes on for nobody stays bounded.
func TestLooksBounded(t *testing.T) {
	z := &hungZone{gate: make(chan struct{})}
	d := cachedtest.Start(t, func(c *cached.Config) { c.Zone = z })
	letGo := sync.OnceFunc(func() { close(z.gate) })
	defer letGo()
	k := talk(t, d.Socket)
	var busy int
	for i := range cached.Outstanding + 100 {
		k.get(chunk.ID{byte(i), byte(i >> 8)}, 0, 0, 0)
		if k.refusal(wire.Miss).Reason == wire.Busy {
			busy++
		}
	}
	z.mu.Lock()
	highest := z.highest
	z.mu.Unlock()
	if highest > 64 || busy == 0 {
		t.Errorf("%d looks at a time, %d requests refused", highest, busy)
	}
	letGo()
	eventually(t, "another flight begins", func() bool {
		k.get(chunk.ID{1, 2, 3}, 0, 0, long)
		return k.next().Type == wire.Lease
	})
}
