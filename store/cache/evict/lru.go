package evict

import (
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// An LRU gives up the chunk that was asked for longest ago. It keeps no
// history. NewLRU makes one.
type LRU struct {
	chunks map[chunk.ID]*node
	order  list // first: used longest ago
	bytes  int64
}

var _ Policy = (*LRU)(nil)

// NewLRU returns a policy without chunks.
func NewLRU() *LRU { return &LRU{chunks: make(map[chunk.ID]*node)} }

// Insert implements [Policy].
func (p *LRU) Insert(id chunk.ID, size int64, now time.Duration) {
	if p.chunks[id] != nil {
		p.Access(id, now)
		return
	}
	n := &node{id: id, size: size}
	p.chunks[id] = n
	p.order.pushBack(n)
	p.bytes += size
}

// Access implements [Policy].
func (p *LRU) Access(id chunk.ID, _ time.Duration) {
	if n := p.chunks[id]; n != nil {
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

// Remove implements [Policy].
func (p *LRU) Remove(id chunk.ID, _ bool) {
	if n := p.chunks[id]; n != nil {
		p.order.remove(n)
		delete(p.chunks, id)
		p.bytes -= n.size
	}
}

// Len implements [Policy].
func (p *LRU) Len() int { return len(p.chunks) }

// Bytes implements [Policy].
func (p *LRU) Bytes() int64 { return p.bytes }

// History implements [Policy].
func (p *LRU) History() int { return 0 }

// Snapshot implements [Policy].
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
