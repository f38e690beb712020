package evict_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/cache/evict/evicttest"
)

// policies are all kinds there are.
var policies = []struct {
	name string
	open func() evict.Policy
}{
	{"LRU", func() evict.Policy { return evict.NewLRU() }},
	{"SIEVE", func() evict.Policy { return evict.NewSIEVE() }},
	{"S3FIFO", func() evict.Policy { return evict.NewS3FIFO() }},
	{"LRU-1", func() evict.Policy { return evict.NewLRUK(evict.Options{K: 1}) }},
	{"LRU-2", func() evict.Policy { return evict.NewLRUK(evict.Options{Correlated: 3 * time.Second, History: 200}) }},
	{"LRU-3", func() evict.Policy {
		return evict.NewLRUK(evict.Options{K: 3, Correlated: time.Second, Retained: 10 * time.Second, History: 100})
	}},
	{"default", func() evict.Policy { return evict.New() }},
}

func TestPolicies(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) { evicttest.TestPolicy(t, p.open) })
	}
}

// BenchmarkPolicies measures a hit, and a chunk that comes and pushes one out,
// among 100,000; and the memory that a chunk takes.
func BenchmarkPolicies(b *testing.B) {
	const n = 100_000
	all := func(chunk.ID) bool { return true }
	ids := make([]chunk.ID, 4*n)
	for i := range ids {
		ids[i] = evicttest.ID(uint64(i))
	}
	for _, p := range policies {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		policy := p.open()
		now := time.Duration(0)
		come := func(i int) {
			now += 10 * time.Millisecond
			if policy.Len() == n {
				id, _ := policy.Victim(now, all)
				policy.Remove(id, true)
			}
			policy.Insert(ids[i%len(ids)], 1, now)
		}
		for i := range n {
			come(i)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.Run(p.name+"/Hit", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				now += 10 * time.Millisecond
				policy.Access(ids[(i*7919)%n], now)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/chunk")
		})
		b.Run(p.name+"/Evict", func(b *testing.B) {
			b.ReportAllocs()
			for i := n; b.Loop(); i++ {
				come(i)
			}
		})
	}
}
