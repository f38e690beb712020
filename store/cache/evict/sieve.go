package evict

import (
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// A SIEVE keeps chunks in the order in which they came. A hand goes over them
// from the oldest to the newest and round again; it passes by those that were
// asked for since it was there last, and gives up the first that was not. A hit
// only sets a bit. It keeps no history. (Zhang et al.: SIEVE is Simpler than
// LRU, NSDI 2024.) NewSIEVE makes one.
type SIEVE struct {
	ordered
	hand *node // where Victim looks first; nil: at the oldest
}

var _ Policy = (*SIEVE)(nil)

// NewSIEVE returns a policy without chunks.
func NewSIEVE() *SIEVE { return &SIEVE{ordered: newOrdered()} }

// Insert implements [Policy].
func (p *SIEVE) Insert(id chunk.ID, size int64, now time.Duration) {
	if p.held[id] != nil {
		p.Access(id, now)
		return
	}
	p.add(id, size)
}

// Access implements [Policy].
func (p *SIEVE) Access(id chunk.ID, _ time.Duration) {
	if n := p.held[id]; n != nil {
		n.refs = 1
	}
}

// Victim implements [Policy]. It goes round at most twice: the first time may
// do no more than clear bits.
func (p *SIEVE) Victim(_ time.Duration, evictable func(chunk.ID) bool) (chunk.ID, bool) {
	n := p.hand
	for range 2 * p.order.len {
		if n == nil {
			n = p.order.first
		}
		if evictable(n.id) {
			if n.refs == 0 {
				p.hand = n
				return n.id, true
			}
			n.refs = 0
		}
		n = n.next
	}
	return chunk.ID{}, false
}

// Remove implements [Policy].
func (p *SIEVE) Remove(id chunk.ID, evicted bool) {
	if n := p.held[id]; n != nil && n == p.hand {
		p.hand = n.next
	}
	p.ordered.Remove(id, evicted)
}

// Snapshot implements [Policy]: the oldest chunk comes first; Queue marks the
// hand.
func (p *SIEVE) Snapshot(emit func(Record)) {
	for n := p.order.first; n != nil; n = n.next {
		r := Record{ID: n.id, Size: n.size, Held: true, Refs: n.refs}
		if n == p.hand {
			r.Queue = 1
		}
		emit(r)
	}
}

// Restore implements [Policy].
func (p *SIEVE) Restore(r Record) {
	if !r.Held || p.held[r.ID] != nil {
		return
	}
	n := p.add(r.ID, r.Size)
	n.refs = min(r.Refs, 1)
	if r.Queue == 1 {
		p.hand = n
	}
}
