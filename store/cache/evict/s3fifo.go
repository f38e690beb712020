package evict

import (
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// An S3FIFO has two queues. A new chunk goes into the small one, a tenth of the
// bytes, and leaves it for the main one if it was asked for twice meanwhile, or
// else the cache; then its name is remembered a while, and should it come back,
// it goes into the main queue at once. There, a chunk that was asked for goes
// round again. A hit only counts. (Yang et al.: FIFO queues are all you need for
// cache eviction, SOSP 2023; the small queue's share, the counter's limit and
// the length of the history are theirs.) NewS3FIFO makes one.
type S3FIFO struct {
	known  map[chunk.ID]*node // ghosts too
	queues [3]nodes           // by queue; first: came first
}

// The queues.
const (
	small queue = iota
	main
	ghost
)

const (
	smallShare = 10 // the small queue's share is one in this
	maxRefs    = 3
)

var _ Policy = (*S3FIFO)(nil)

// NewS3FIFO returns a policy without chunks.
func NewS3FIFO() *S3FIFO { return &S3FIFO{known: make(map[chunk.ID]*node)} }

// move puts n at the end of a queue.
func (p *S3FIFO) move(n *node, to queue, refs uint8) {
	p.queues[n.queue].remove(n)
	n.queue, n.refs = to, refs
	p.queues[to].pushBack(n)
}

// Insert implements [Policy].
func (p *S3FIFO) Insert(id chunk.ID, size int64, now time.Duration) {
	switch n := p.known[id]; {
	case n == nil:
		p.add(newNode(id, size), small)
	case n.queue == ghost:
		p.queues[ghost].remove(n)
		n.size, n.queue, n.refs = size, main, 0
		p.queues[main].pushBack(n)
	default:
		p.Access(id, now)
	}
}

func (p *S3FIFO) add(n *node, to queue) {
	n.queue = to
	p.known[n.id] = n
	p.queues[to].pushBack(n)
}

// Access implements [Policy].
func (p *S3FIFO) Access(id chunk.ID, _ time.Duration) {
	if n := p.known[id]; n != nil && n.queue != ghost {
		n.refs = min(n.refs+1, maxRefs)
	}
}

// Victim implements [Policy].
func (p *S3FIFO) Victim(_ time.Duration, evictable func(chunk.ID) bool) (chunk.ID, bool) {
	if p.queues[small].bytes*smallShare >= p.Bytes() {
		if n := p.fromSmall(evictable); n != nil {
			return n.id, true
		}
	}
	n := p.fromMain(evictable)
	if n == nil {
		n = p.fromSmall(evictable)
	}
	if n == nil { // what fromSmall promoted is all there is
		n = p.fromMain(evictable)
	}
	if n == nil {
		return chunk.ID{}, false
	}
	return n.id, true
}

func (p *S3FIFO) fromSmall(evictable func(chunk.ID) bool) *node {
	for n := p.queues[small].first; n != nil; {
		next := n.next
		if n.refs > 1 {
			p.move(n, main, 0)
		} else if evictable(n.id) {
			return n
		}
		n = next
	}
	return nil
}

// fromMain ends because each round takes one of a counter.
func (p *S3FIFO) fromMain(evictable func(chunk.ID) bool) *node {
	for n := p.queues[main].first; n != nil; {
		next := n.next
		if n.refs > 0 {
			p.move(n, main, n.refs-1)
			if next == nil {
				next = n
			}
		} else if evictable(n.id) {
			return n
		}
		n = next
	}
	return nil
}

// Remove implements [Policy].
func (p *S3FIFO) Remove(id chunk.ID, evicted bool) {
	n := p.known[id]
	if n == nil {
		return
	}
	if evicted && n.queue == small {
		p.move(n, ghost, 0)
	} else if n.queue != ghost || !evicted {
		p.forget(n)
	}
	for p.History() > max(1, p.Len()*(smallShare-1)/smallShare) {
		p.forget(p.queues[ghost].first)
	}
}

func (p *S3FIFO) forget(n *node) {
	p.queues[n.queue].remove(n)
	delete(p.known, n.id)
}

// Len implements [Policy].
func (p *S3FIFO) Len() int { return p.queues[small].len + p.queues[main].len }

// Bytes implements [Policy].
func (p *S3FIFO) Bytes() int64 { return p.queues[small].bytes + p.queues[main].bytes }

// History implements [Policy].
func (p *S3FIFO) History() int { return p.queues[ghost].len }

// Snapshot implements [Policy].
func (p *S3FIFO) Snapshot(emit func(Record)) {
	for q := range p.queues {
		for n := p.queues[q].first; n != nil; n = n.next {
			emit(Record{ID: n.id, Size: n.size, Held: n.queue != ghost, Queue: uint8(n.queue), Refs: n.refs})
		}
	}
}

// Restore implements [Policy].
func (p *S3FIFO) Restore(r Record) {
	if p.known[r.ID] != nil {
		return
	}
	q := queue(r.Queue)
	if !r.Held {
		q = ghost
	} else if q != main {
		q = small
	}
	n := newNode(r.ID, r.Size)
	n.refs = min(r.Refs, maxRefs)
	p.add(n, q)
}
