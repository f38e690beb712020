package simulate

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

func trace(costs []int64, order ...int32) *Trace {
	t := &Trace{Costs: costs}
	for i, c := range order {
		t.Requests = append(t.Requests, Request{time.Duration(i) * time.Second, c})
	}
	return t
}

// TestRun counts by hand: an LRU of two chunks on a loop of three has no hit,
// Belady's rule keeps one of them.
func TestRun(t *testing.T) {
	loop := trace([]int64{10, 10, 10}, 0, 1, 2, 0, 1, 2, 0, 1, 2)
	if r := Run(evict.NewLRU(), 20, loop, 0); r.Hits != 0 || r.Requests != 9 || r.Evictions != 7 || r.Held != 2 || r.Bytes != 90 {
		t.Errorf("LRU on a loop: %+v", r)
	}
	if r := Optimal(20, loop, 0); r.Hits != 4 { // 0 1 (2) 0 (1 or 2) …
		t.Errorf("Belady on a loop: %+v, want 4 hits", r)
	}
	if r := Run(evict.NewLRU(), 30, loop, 3); r.Hits != 6 || r.Requests != 6 || r.HitRatio() != 1 || r.ByteHitRatio() != 1 {
		t.Errorf("LRU with room, warm: %+v", r)
	}
	large := trace([]int64{10, 100}, 0, 1, 0, 1, 0)
	if r := Run(evict.NewLRU(), 50, large, 0); r.Hits != 2 || r.HitBytes != 20 || r.Bytes != 230 {
		t.Errorf("a chunk larger than the cache: %+v", r)
	}
}

// TestOptimal compares with the best of all ways, tried one after the other, for
// chunks of one size: Belady's rule is the best then.
func TestOptimal(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var order []int32
		for range 10 {
			order = append(order, rng.Int32N(5))
		}
		tr := trace([]int64{1, 1, 1, 1, 1}, order...)
		if got, want := Optimal(2, tr, 0).Hits, best(order, nil, 2); got != int64(want) {
			t.Fatalf("%v: %d hits, %d are possible", order, got, want)
		}
	}
}

// best tries everything that a cache of n chunks can do.
func best(order []int32, held []int32, n int) int {
	if len(order) == 0 {
		return 0
	}
	for _, h := range held {
		if h == order[0] {
			return 1 + best(order[1:], held, n)
		}
	}
	most := best(order[1:], held, n) // let it go by
	if len(held) < n {
		return max(most, best(order[1:], append(append([]int32{}, held...), order[0]), n))
	}
	for i := range held {
		next := append([]int32{}, held...)
		next[i] = order[0]
		most = max(most, best(order[1:], next, n))
	}
	return most
}

// TestNoPolicyBeatsBelady, but by what unequal sizes allow.
func TestNoPolicyBeatsBelady(t *testing.T) {
	tr := Zipf(1, 500, 20_000, 0.8, 10)
	for _, share := range []int64{2, 10, 40} {
		capacity := tr.WorkingSet() * share / 100
		bound := Optimal(capacity, tr, 5000).HitRatio()
		for _, p := range []evict.Policy{evict.NewLRU(), evict.NewSIEVE(), evict.NewS3FIFO(), evict.New()} {
			if r := Run(p, capacity, tr, 5000); r.HitRatio() > bound || r.HitRatio() < bound/5 {
				t.Errorf("%T at %d %%: %.3f, Belady %.3f", p, share, r.HitRatio(), bound)
			}
		}
	}
}

func TestZipf(t *testing.T) {
	a, b := Zipf(7, 1000, 50_000, 1, 100), Zipf(7, 1000, 50_000, 1, 100)
	if !reflect.DeepEqual(a, b) {
		t.Error("equal arguments give different traces")
	}
	count := make([]int, 1000)
	for i, r := range a.Requests {
		count[r.Chunk]++
		if want := time.Duration(i) * 10 * time.Millisecond; (r.At - want).Abs() > time.Microsecond {
			t.Fatalf("request %d at %v, want %v", i, r.At, want)
		}
	}
	for _, rank := range []int{1, 3, 10, 30} { // chunk 0 is asked for rank+1 times as often
		got := float64(count[0]) / float64(count[rank])
		if want := float64(rank + 1); math.Abs(got/want-1) > 0.3 {
			t.Errorf("chunk 0 over chunk %d: %.1f, want %.0f", rank, got, want)
		}
	}
	for n, c := range a.Costs {
		if c <= 0 || c > maxCost || c%block != 0 {
			t.Errorf("chunk %d costs %d", n, c)
		}
	}
}

// TestFleet: the herd comes on the hour and asks for what nobody else does; new
// versions have some new chunks; time does not go back.
func TestFleet(t *testing.T) {
	load := Load{Name: "x", Seed: 3, Hours: 6, Starts: 50, Functions: 40, Skew: 1, Bases: 3, Shared: 5, Own: 10, Again: 0.3, HerdEach: 2}
	quiet := Fleet(load)
	if !reflect.DeepEqual(quiet, Fleet(load)) {
		t.Error("equal loads give different traces")
	}
	load.Herd = 60
	herd := Fleet(load)
	load.Herd, load.Renewed, load.Changed = 0, 0.5, 0.5
	churn := Fleet(load)
	for _, tr := range []*Trace{quiet, herd, churn} {
		for i := range tr.Requests[1:] {
			if tr.Requests[i+1].At < tr.Requests[i].At {
				t.Fatalf("time goes back at request %d", i)
			}
		}
	}
	if more := len(herd.Requests) - len(quiet.Requests); more < 6*30*5 {
		t.Errorf("the herd made %d requests, want more", more)
	}
	inHerd := 0
	for _, r := range herd.Requests {
		if r.At%time.Hour < 2*time.Minute {
			inHerd++
		}
	}
	if share := float64(inHerd) / float64(len(herd.Requests)); share < 0.25 {
		t.Errorf("%.2f of the requests are near the hour", share)
	}
	if len(churn.Costs) < len(quiet.Costs)*3/2 {
		t.Errorf("churn made %d chunks of %d", len(churn.Costs), len(quiet.Costs))
	}
}

func TestID(t *testing.T) {
	seen := map[chunk.ID]bool{}
	for n := range int32(10_000) {
		seen[ID(n)] = true
	}
	if len(seen) != 10_000 {
		t.Errorf("%d names for 10000 chunks", len(seen))
	}
}

func BenchmarkRun(b *testing.B) {
	tr := Zipf(1, 5000, 100_000, 1, 10)
	for b.Loop() {
		Run(evict.New(), tr.WorkingSet()/10, tr, 0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(tr.Requests)), "ns/request")
}
