package evict

import (
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// An LRU gives up the chunk that was asked for longest ago. It keeps no
// history. NewLRU makes one.
type LRU struct{ ordered }

var _ Policy = (*LRU)(nil)

// NewLRU returns a policy without chunks.
func NewLRU() *LRU { return &LRU{newOrdered()} }

// Insert implements [Policy].
func (p *LRU) Insert(id chunk.ID, size int64, now time.Duration) {
	if p.held[id] != nil {
		p.Access(id, now)
		return
	}
	p.add(id, size)
}

// Access implements [Policy].
func (p *LRU) Access(id chunk.ID, _ time.Duration) {
	if n := p.held[id]; n != nil {
		p.order.remove(n)
		p.order.pushBack(n)
	}
}

// Victim implements [Policy].
func (p *LRU) Victim(_ time.Duration, evictable func(chunk.ID) bool) (chunk.ID, bool) {
	for n := p.order.first; n != nil; n = n.next {
		if evictable(n.id) {
			return n.id, true
		}
	}
	return chunk.ID{}, false
}

// Snapshot implements [Policy]: the chunk used longest ago comes first.
func (p *LRU) Snapshot(emit func(Record)) {
	for n := p.order.first; n != nil; n = n.next {
		emit(Record{ID: n.id, Size: n.size, Held: true})
	}
}

// Restore implements [Policy].
func (p *LRU) Restore(r Record) {
	if r.Held {
		p.Insert(r.ID, r.Size, 0)
	}
}
