package zone

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/zone/internal/wire"
)

// A reading is one read of a copy of a chunk, by way of one assembly or, of two
// replicas, two.
type reading struct {
	z     *Zone
	id    chunk.ID
	nodes []int                     // of the stripes
	fill  []int                     // nodes of a copy that lacks the chunk; nil: none
	taker func(object []byte) error // Offer's; nil: none

	mu   sync.Mutex
	lost stripeSet // known to be missing or bad
	bad  stripeSet // of them: there, and to be removed if they are not repaired
	won  bool      // the chunk was rebuilt
}

// A stripeSet has a bit for each stripe.
type stripeSet uint32

func (s stripeSet) has(i int) bool { return s&(1<<i) != 0 }

func (s stripeSet) count() int { return bits.OnesCount32(uint32(s)) }

// lose notes that a stripe is missing or bad. If the chunk has been rebuilt by
// then, it is read again for that stripe's sake.
func (r *reading) lose(i int, bad bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost |= 1 << i
	if bad {
		r.bad |= 1 << i
	}
	if r.won {
		r.z.enqueue(job{id: r.id, nodes: r.nodes, kind: repairLater})
	}
}

// win has what is lost put again.
func (r *reading) win(object []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.won {
		return
	}
	r.won = true
	if r.lost != 0 {
		r.z.enqueueObject(job{id: r.id, nodes: r.nodes, stripes: r.lost, kind: repair}, object)
	}
	if r.fill != nil {
		r.z.enqueueObject(job{id: r.id, nodes: r.fill, stripes: r.z.all(), kind: repair}, object)
	}
}

// fail has bad stripes removed, so that a fill need not be lucky.
func (r *reading) fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad != 0 && !r.won {
		r.z.enqueue(job{id: r.id, nodes: r.nodes, stripes: r.bad, kind: remove})
	}
}

// read asks for stripes, and copies a part of the chunk that they make.
func (r *reading) read(ctx context.Context, ask stripeSet, dst []byte, off int64) (int, error) {
	a := r.ask(ctx, ask)
	defer a.end()
	object, err := a.collect(ctx, false)
	if err != nil {
		return 0, err
	}
	r.win(object)
	if r.taker != nil || off >= int64(len(object)) {
		return 0, nil
	}
	return copy(dst, object[off:]), nil
}

// An answer is what came of asking for a stripe.
type answer struct {
	index   int
	buf     *buffer // of payload; nil: none
	payload []byte
	size    int   // of the object
	err     error // wire.ErrMissing, errStripe (wrapped), or why there is no answer
}

// ask asks for stripes, all at once.
func (r *reading) ask(ctx context.Context, stripes stripeSet) *assembly {
	ctx, cancel := context.WithTimeout(ctx, r.z.patience)
	a := &assembly{reading: r, cancel: cancel, answers: make(chan answer, r.z.n)}
	for i := range r.z.n {
		if stripes.has(i) {
			a.pending++
			r.z.work.Go(func() { a.deliver(r.z.fetch(ctx, r.id, r.nodes[i], i)) })
		}
	}
	return a
}

// fetch asks a node for a stripe and checks that it is one.
func (z *Zone) fetch(ctx context.Context, id chunk.ID, node, index int) answer {
	a := answer{index: index}
	longest := z.longest()
	value, err := z.nodes[node].get(ctx, z.key(id, index), z.usual, func(n int) []byte {
		if n > longest {
			return nil
		}
		if a.buf == nil {
			a.buf = stripeBuffers.get()
		}
		return a.buf.bytes(n)
	})
	switch {
	case errors.Is(err, wire.ErrLength):
		a.err = fmt.Errorf("%w: %w", errStripe, err)
	case err != nil:
		a.err = err
	default:
		a.payload, a.size, a.err = z.parse(id, index, value)
	}
	return a
}

// release gives the answer's buffer back.
func (a *answer) release() {
	if a.buf != nil {
		stripeBuffers.put(a.buf)
	}
}

// A buffer is bytes that are used again.
type buffer struct{ b []byte }

// bytes returns n bytes of undefined content, good until the next call.
func (b *buffer) bytes(n int) []byte {
	if cap(b.b) < n {
		b.b = make([]byte, n)
	}
	return b.b[:n]
}

// A bufferPool is one of buffers of about one size.
type bufferPool struct{ sync.Pool }

func (p *bufferPool) get() *buffer {
	if b, ok := p.Get().(*buffer); ok {
		return b
	}
	return new(buffer)
}

func (p *bufferPool) put(b *buffer) { p.Put(b) }

var stripeBuffers, objectBuffers bufferPool
