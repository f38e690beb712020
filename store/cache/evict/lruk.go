package evict

import (
	"bytes"
	"container/heap"
	"math"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// Options are the parameters of [LRUK].
type Options struct {
	// K is which reference counts, from the last one back: 1 to MaxK, 0 means 2.
	K int
	// Correlated is the correlated-reference period: references to a chunk that
	// are no further apart are one. A start reads a chunk frame by frame; that
	// is no reason to believe that the next start wants it.
	Correlated time.Duration
	// Recent ends that period early for the chunks that were referenced longest
	// ago while those in it have more than this share of the bytes held, in per
	// cent; 0 means 100. Otherwise a cache that turns over faster than the
	// period knows no second references, and is an LRU.
	Recent int
	// Retained is the retained-information period: how long after its last
	// reference a chunk that is gone is remembered; 0 means as long as History
	// allows.
	Retained time.Duration
	// History bounds how many chunks are remembered that are gone, in per cent
	// of those that are held.
	History int
}

// An LRUK gives up the chunk whose K-th last reference is longest ago, its
// backward K-distance; chunks with fewer references come before all others, the
// one used longest ago first. It remembers the references of chunks that are
// gone. (O'Neil, O'Neil, Weikum: The LRU-K page replacement algorithm for
// database disk buffering, SIGMOD 1993; names in comments are theirs.) NewLRUK
// makes one.
//
// A chunk whose last reference is within the correlated-reference period is not
// eligible, and waits in a list in the order of last references, where a hit
// costs O(1); when the period is over and a victim is wanted, it moves into a
// heap by K-distance. If the heap has none to give, the head of the list goes
// all the same: a cache must.
type LRUK struct {
	options Options
	known   map[chunk.ID]*knode // ghosts too
	heap    kheap               // eligible
	recent  knodes              // not eligible; first: referenced longest ago
	ghosts  knodes              // gone; first: gone longest ago
	bytes   int64               // of heap and recent
	now     time.Duration       // largest seen
}

// never is the time of a reference that was not.
const never = time.Duration(math.MinInt64)

type knode struct {
	item[knode]
	hist  [MaxK]time.Duration // HIST: uncorrelated references, the last first; K of them count
	last  time.Duration       // LAST: the last reference, correlated or not
	index int32               // in the heap, or -1
	gone  bool
}

type knodes = list[knode, *knode]

func newKnode(id chunk.ID, last time.Duration) *knode {
	n := &knode{item: item[knode]{id: id}, last: last, index: -1}
	for i := range n.hist {
		n.hist[i] = never
	}
	return n
}

var _ Policy = (*LRUK)(nil)

// NewLRUK returns a policy without chunks. A K out of range is made to fit.
func NewLRUK(o Options) *LRUK {
	if o.K == 0 {
		o.K = 2
	}
	o.K = min(max(o.K, 1), MaxK)
	if o.Recent == 0 {
		o.Recent = 100
	}
	return &LRUK{options: o, known: make(map[chunk.ID]*knode), heap: kheap{k: o.K - 1}}
}

// Insert implements [Policy].
func (p *LRUK) Insert(id chunk.ID, size int64, now time.Duration) {
	n := p.known[id]
	if n != nil && !n.gone {
		p.Access(id, now)
		return
	}
	p.advance(now)
	if n = p.known[id]; n != nil && p.expired(n) { // they go in the order of eviction
		p.forget(n)
		n = nil
	}
	if n == nil {
		n = newKnode(id, never)
		p.known[id] = n
	} else {
		p.ghosts.remove(n)
	}
	n.shift(0)
	n.hist[0] = now
	n.size, n.last, n.gone = size, now, false
	p.bytes += size
	p.recent.pushBack(n)
}

// shift makes room for a reference, and adds by to the time of the ones before,
// so that the period that correlated references took does not count.
func (n *knode) shift(by time.Duration) {
	for i := MaxK - 1; i > 0; i-- {
		if n.hist[i] = n.hist[i-1]; n.hist[i] != never {
			n.hist[i] += by
		}
	}
}

// Access implements [Policy].
func (p *LRUK) Access(id chunk.ID, now time.Duration) {
	n := p.known[id]
	if n == nil || n.gone {
		return
	}
	p.advance(now)
	if n.index >= 0 {
		n.shift(n.last - n.hist[0])
		n.hist[0] = now
	}
	n.last = now
	p.leave(n)
	p.recent.pushBack(n)
}

// leave takes n out of heap or recent.
func (p *LRUK) leave(n *knode) {
	if n.index >= 0 {
		heap.Remove(&p.heap, int(n.index))
	} else {
		p.recent.remove(n)
	}
}

// Victim implements [Policy].
func (p *LRUK) Victim(now time.Duration, evictable func(chunk.ID) bool) (id chunk.ID, ok bool) {
	p.advance(now)
	var passed []*knode
	for !ok && len(p.heap.nodes) > 0 {
		n := p.heap.nodes[0]
		if ok = evictable(n.id); ok {
			id = n.id
		} else {
			passed = append(passed, heap.Pop(&p.heap).(*knode))
		}
	}
	for _, n := range passed {
		heap.Push(&p.heap, n)
	}
	for n := p.recent.first; !ok && n != nil; n = n.next {
		if ok = evictable(n.id); ok {
			id = n.id
		}
	}
	return id, ok
}

// Remove implements [Policy].
func (p *LRUK) Remove(id chunk.ID, evicted bool) {
	n := p.known[id]
	if n == nil || n.gone && evicted {
		return
	}
	if n.gone {
		p.forget(n)
		return
	}
	p.leave(n)
	p.bytes -= n.size
	if !evicted {
		delete(p.known, id)
		return
	}
	n.gone = true
	p.ghosts.pushBack(n)
	for p.ghosts.len > p.Len()*p.options.History/100 {
		p.forget(p.ghosts.first)
	}
}

// advance makes it now: correlated periods end, and what was gone too long is
// forgotten.
func (p *LRUK) advance(now time.Duration) {
	p.now = max(p.now, now)
	for n := p.recent.first; n != nil && !p.correlated(n); n = p.recent.first {
		p.recent.remove(n)
		heap.Push(&p.heap, n)
	}
	for n := p.ghosts.first; n != nil && p.expired(n); n = p.ghosts.first {
		p.forget(n)
	}
}

// correlated reports whether n, the first in recent, may stay there.
func (p *LRUK) correlated(n *knode) bool {
	return p.now-n.last <= p.options.Correlated && p.recent.bytes*100 <= p.bytes*int64(p.options.Recent)
}

// expired reports whether the history of a chunk that is gone is too old.
func (p *LRUK) expired(n *knode) bool {
	return p.options.Retained > 0 && p.now-n.last > p.options.Retained
}

// forget ends the history of a chunk that is gone.
func (p *LRUK) forget(n *knode) {
	p.ghosts.remove(n)
	delete(p.known, n.id)
}

// Len implements [Policy].
func (p *LRUK) Len() int { return len(p.heap.nodes) + p.recent.len }

// Bytes implements [Policy].
func (p *LRUK) Bytes() int64 { return p.bytes }

// History implements [Policy].
func (p *LRUK) History() int { return p.ghosts.len }

// Snapshot implements [Policy]: history comes first, then the eligible chunks as
// they are in the heap, then those that are not. Times are HIST and, last, LAST.
func (p *LRUK) Snapshot(emit func(Record)) {
	record := func(n *knode, queue uint8) {
		r := Record{ID: n.id, Size: n.size, Held: !n.gone, Queue: queue}
		copy(r.Times[:], n.hist[:])
		r.Times[MaxK] = n.last
		emit(r)
	}
	for n := p.ghosts.first; n != nil; n = n.next {
		record(n, 0)
	}
	for _, n := range p.heap.nodes {
		record(n, 1)
	}
	for n := p.recent.first; n != nil; n = n.next {
		record(n, 2)
	}
}

// Restore implements [Policy].
func (p *LRUK) Restore(r Record) {
	if p.known[r.ID] != nil {
		return
	}
	n := newKnode(r.ID, r.Times[MaxK])
	n.size, n.gone = r.Size, !r.Held
	copy(n.hist[:], r.Times[:])
	p.known[r.ID] = n
	p.now = max(p.now, n.last)
	switch {
	case n.gone:
		p.ghosts.pushBack(n)
		return
	case r.Queue == 2:
		p.recent.pushBack(n)
	default:
		heap.Push(&p.heap, n)
	}
	p.bytes += r.Size
}

// A kheap is a heap.Interface: the first is the next to go.
type kheap struct {
	k     int // index of the reference that counts
	nodes []*knode
}

func (h *kheap) Len() int { return len(h.nodes) }

func (h *kheap) Less(i, j int) bool {
	a, b := h.nodes[i], h.nodes[j]
	switch {
	case a.hist[h.k] != b.hist[h.k]:
		return a.hist[h.k] < b.hist[h.k]
	case a.last != b.last:
		return a.last < b.last
	}
	return bytes.Compare(a.id[:], b.id[:]) < 0
}

func (h *kheap) Swap(i, j int) {
	h.nodes[i], h.nodes[j] = h.nodes[j], h.nodes[i]
	h.nodes[i].index, h.nodes[j].index = int32(i), int32(j)
}

func (h *kheap) Push(x any) {
	n := x.(*knode)
	n.index = int32(len(h.nodes))
	h.nodes = append(h.nodes, n)
}

func (h *kheap) Pop() any {
	n := h.nodes[len(h.nodes)-1]
	h.nodes[len(h.nodes)-1] = nil
	h.nodes = h.nodes[:len(h.nodes)-1]
	n.index = -1
	return n
}
