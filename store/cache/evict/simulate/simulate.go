// Package simulate runs eviction policies on traces, without a cache: what
// share of requests a cache of a given size would have answered.
//
// A [Trace] is a list of requests with their times, made from a seed: [Zipf] and
// [Fleet] make them. [Run] tells a policy of each request as a cache does,
// evicting before a chunk comes in until it fits. [Optimal] knows the future,
// and is what no policy can beat by much.
package simulate

import (
	"container/heap"
	"encoding/binary"
	"math"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

// A Request asks for one chunk.
type Request struct {
	At    time.Duration // since the trace began; does not go back
	Chunk int32         // index in Trace.Costs
}

// A Trace is a list of requests.
type Trace struct {
	Name     string
	Costs    []int64 // of each chunk, in bytes that count against a cache's cap
	Requests []Request
}

// ID returns the name that chunk n of every trace has.
func ID(n int32) (id chunk.ID) {
	for i, x := 0, uint64(uint32(n)); i < len(id); i += 8 {
		x += 0x9e3779b97f4a7c15 // splitmix64
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(id[i:], z^z>>31)
	}
	return id
}

// WorkingSet returns the bytes of all chunks that are asked for.
func (t *Trace) WorkingSet() (bytes int64) {
	seen := make([]bool, len(t.Costs))
	for _, r := range t.Requests {
		if !seen[r.Chunk] {
			seen[r.Chunk] = true
			bytes += t.Costs[r.Chunk]
		}
	}
	return bytes
}

// A Result says how a cache did, after it was warm.
type Result struct {
	Requests, Hits      int64
	Bytes, HitBytes     int64
	Evictions           int64
	Held, History, Most int // chunks at the end, and the most that were remembered beside those held
}

// HitRatio returns hits over requests.
func (r Result) HitRatio() float64 { return float64(r.Hits) / float64(max(r.Requests, 1)) }

// ByteHitRatio returns bytes hit over bytes asked for.
func (r Result) ByteHitRatio() float64 { return float64(r.HitBytes) / float64(max(r.Bytes, 1)) }

func (r *Result) count(cost int64, hit bool) {
	r.Requests++
	r.Bytes += cost
	if hit {
		r.Hits++
		r.HitBytes += cost
	}
}

// Run runs a policy that holds nothing on a trace, in a cache of capacity
// bytes. The first warm requests are not counted.
func Run(p evict.Policy, capacity int64, t *Trace, warm int) Result {
	var result Result
	held := make([]bool, len(t.Costs))
	ids := make(map[chunk.ID]int32)
	all := func(chunk.ID) bool { return true }
	for i, r := range t.Requests {
		if i == warm {
			result = Result{Most: result.Most}
		}
		id, cost, hit := ID(r.Chunk), t.Costs[r.Chunk], held[r.Chunk]
		result.count(cost, hit)
		if hit {
			p.Access(id, r.At)
			continue
		}
		if cost > capacity {
			continue
		}
		for p.Bytes()+cost > capacity {
			victim, ok := p.Victim(r.At, all)
			if !ok {
				panic("simulate: a policy that holds chunks has no victim")
			}
			p.Remove(victim, true)
			held[ids[victim]] = false
			delete(ids, victim)
			result.Evictions++
		}
		p.Insert(id, cost, r.At)
		held[r.Chunk] = true
		ids[id] = r.Chunk
		result.Most = max(result.Most, p.History())
	}
	result.Held, result.History = p.Len(), p.History()
	return result
}

// Optimal runs Belady's rule: the chunk whose next request is farthest goes, and
// that may be the one that comes. For chunks of unequal sizes the best is hard
// to find, and this is near it.
func Optimal(capacity int64, t *Trace, warm int) Result {
	var result Result
	next := nextUse(t)
	o := farthest{index: make([]int, len(t.Costs)), use: make([]int, len(t.Costs))}
	for i := range o.index {
		o.index[i] = -1
	}
	used := int64(0)
	for i, r := range t.Requests {
		if i == warm {
			result = Result{}
		}
		cost, at := t.Costs[r.Chunk], o.index[r.Chunk]
		result.count(cost, at >= 0)
		o.use[r.Chunk] = next[i]
		if at >= 0 {
			heap.Fix(&o, at)
			continue
		}
		heap.Push(&o, r.Chunk)
		for used += cost; used > capacity; {
			used -= t.Costs[heap.Pop(&o).(int32)]
			result.Evictions++
		}
	}
	result.Held = o.Len()
	return result
}

// nextUse returns, for each request, the index of the next for its chunk.
func nextUse(t *Trace) []int {
	next, later := make([]int, len(t.Requests)), make([]int, len(t.Costs))
	for i := range later {
		later[i] = math.MaxInt
	}
	for i := len(t.Requests) - 1; i >= 0; i-- {
		c := t.Requests[i].Chunk
		next[i], later[c] = later[c], i
	}
	return next
}

// farthest is a heap of chunks, first that whose next use is farthest.
type farthest struct {
	chunks []int32
	index  []int // of each chunk in chunks, or -1
	use    []int // of each chunk, the index of its next request
}

func (o *farthest) Len() int { return len(o.chunks) }
func (o *farthest) Less(i, j int) bool {
	a, b := o.chunks[i], o.chunks[j]
	if o.use[a] != o.use[b] {
		return o.use[a] > o.use[b]
	}
	return a < b
}

func (o *farthest) Swap(i, j int) {
	o.chunks[i], o.chunks[j] = o.chunks[j], o.chunks[i]
	o.index[o.chunks[i]], o.index[o.chunks[j]] = i, j
}

func (o *farthest) Push(x any) {
	o.index[x.(int32)] = len(o.chunks)
	o.chunks = append(o.chunks, x.(int32))
}

func (o *farthest) Pop() any {
	c := o.chunks[len(o.chunks)-1]
	o.chunks = o.chunks[:len(o.chunks)-1]
	o.index[c] = -1
	return c
}
