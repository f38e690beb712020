package main

import (
	"bytes"
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/cache/evict/simulate"
)

// TestOrigin has the same good chunk from both of the origin's doors, and counts.
func TestOrigin(t *testing.T) {
	o, err := newOrigin()
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		n := o.make(rng)
		p := o.piece(n)
		want := object(n, p.size).Bytes
		got := make([]byte, len(want))
		if _, err := chunk.NewDoor(o).ReadChunk(context.Background(), p.id, got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("chunk %d: %v", n, err)
		}
		r, err := o.Request(context.Background(), p.id)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Get(r.URL)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !bytes.Equal(b, want) {
			t.Errorf("chunk %d over HTTP: %d bytes", n, len(b))
		}
	}
	if _, err := o.Fetch(context.Background(), chunk.ID{1}, make([]byte, 1), 0); err == nil {
		t.Error("there is a chunk that nobody made")
	}
	if n := o.requests.Load(); n < 10 {
		t.Errorf("%d requests counted", n)
	}
}

// TestHitRatios takes the policy itself for the cache: the ratios are equal.
func TestHitRatios(t *testing.T) {
	o, err := newOrigin()
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	tr := newTraffic(&options{chunks: 100, clients: 1, rate: 1, skew: 0.9, seed: 3}, o)
	size := tr.inUse() / 4
	rng := rand.New(rand.NewPCG(3, 3))
	for range 8000 {
		tr.next(rng)
	}
	tr.endCalm()
	// As many misses as the simulator has, at each mark.
	trace := &simulate.Trace{Requests: tr.requests}
	for i := range o.pieces {
		trace.Costs = append(trace.Costs, o.pieces[i].cost)
	}
	for i, f := range tr.fetched {
		part := simulate.Trace{Costs: trace.Costs, Requests: trace.Requests[:f.reads]}
		r := simulate.Run(evict.New(), size, &part, 0)
		tr.fetched[i].fetches = r.Requests - r.Hits
	}
	measured, predicted, n := tr.hitRatios(func(trace *simulate.Trace, warm int) simulate.Result {
		return simulate.Run(evict.New(), size, trace, warm)
	})
	if n < 4000 || math.Abs(measured-predicted) > 1e-9 || measured < 0.3 || measured > 0.95 {
		t.Errorf("measured %v, predicted %v, of %d", measured, predicted, n)
	}
}

func TestMemory(t *testing.T) {
	w := watch{samples: []sample{{at: time.Second, daemon: use{rss: 10}}, {at: 2 * time.Second, daemon: use{rss: 20}}, {at: 3 * time.Second}, {at: 9 * time.Second, daemon: use{rss: 90}}}}
	if m := w.memory(0, 5*time.Second); m != 15 {
		t.Errorf("mean of 10 and 20 is %v", m)
	}
	if u := used("self"); u.rss <= 0 || u.threads <= 0 || u.files <= 0 {
		t.Errorf("this process takes %+v", u)
	}
}
