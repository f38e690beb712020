package zone

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/chunk"
)

// maxJobs is how many fills and repairs may wait.
const maxJobs = 4096

// What a job does.
type kind uint8

const (
	fill        kind = iota // puts a chunk
	repair                  // puts stripes that a read has missed
	repairLater             // reads the chunk first
	remove                  // removes stripes
)

// A job is work on the stripes of one copy of a chunk that nobody waits for.
type job struct {
	kind    kind
	id      chunk.ID
	nodes   []int     // nil: to be chosen
	stripes stripeSet // that are put or removed
	buf     *buffer   // begins with the object, has room to encode it; nil: none
	size    int       // of the object
}

// A fillQueue holds jobs. Its bounds are maxJobs and the bytes that they hold; what
// exceeds them is dropped.
type fillQueue struct {
	jobs  chan job
	most  int64
	bytes atomic.Int64

	mu      sync.Mutex
	closed  bool
	pending map[pending]struct{} // jobs in line
}

// pending names a job: of several alike, one is enough.
type pending struct {
	id   chunk.ID
	kind kind
	node int // the first one
}

func (j *job) name() pending {
	p := pending{id: j.id, kind: j.kind, node: -1}
	if j.nodes != nil {
		p.node = j.nodes[0]
	}
	return p
}

func (q *fillQueue) init(most int64) {
	q.jobs, q.most = make(chan job, maxJobs), most
	q.pending = make(map[pending]struct{})
}

func (q *fillQueue) held() int64 { return q.bytes.Load() }

func (q *fillQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// Results of push.
type pushed int

const (
	queued pushed = iota
	alike         // there is one already
	full
)

// push takes a job in. It holds so many bytes until it is done, which load, called
// only if there is room, puts into it.
func (q *fillQueue) push(j job, hold int, load func(*job)) pushed {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, there := q.pending[j.name()]; there {
		return alike
	}
	if q.closed || len(q.jobs) == cap(q.jobs) || q.bytes.Load()+int64(hold) > q.most {
		return full
	}
	load(&j)
	q.bytes.Add(int64(hold))
	q.pending[j.name()] = struct{}{}
	q.jobs <- j // has room: all senders hold q.mu
	return queued
}

// taken notes that a job has left the line.
func (q *fillQueue) taken(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.pending, j.name())
}

// Fill puts a chunk into the zone when there is time: it copies object, which it
// does not keep, and returns at once. If too much waits already, or the object is
// not what id promises, nothing is put.
func (z *Zone) Fill(id chunk.ID, object []byte) {
	if len(object) == 0 || len(object) > chunk.MaxStoredSize {
		z.undone.Add(1)
		return
	}
	z.enqueueObject(job{kind: fill, id: id, stripes: z.all()}, object)
}

func (z *Zone) enqueueObject(j job, object []byte) {
	room := z.code.room(len(object))
	got := z.queue.push(j, room, func(j *job) {
		j.buf, j.size = jobBuffers.get(), len(object)
		copy(j.buf.bytes(room), object)
	})
	if got == full {
		z.dropped.Add(1)
	}
}

func (z *Zone) enqueue(j job) {
	if z.queue.push(j, 0, func(*job) {}) == full {
		z.dropped.Add(1)
	}
}

var jobBuffers bufferPool

// fillAll does jobs until the zone is closed.
func (z *Zone) fillAll() {
	for {
		select {
		case j := <-z.queue.jobs:
			z.do(&j)
		case <-z.ctx.Done():
			return
		}
	}
}

func (z *Zone) do(j *job) {
	z.queue.taken(j)
	held := 0
	if j.buf != nil {
		held = z.code.room(j.size)
		defer z.queue.bytes.Add(-int64(held))
		defer jobBuffers.put(j.buf)
	}
	switch j.kind {
	case fill:
		_ = z.put(z.ctx, j.id, j.buf.bytes(held), j.size) // counted
	case repair:
		z.repair(j, j.buf.bytes(held))
	case repairLater:
		z.repairLater(j)
	case remove:
		done, _ := z.each(z.ctx, j.stripes, func(ctx context.Context, i int) error {
			return z.nodes[j.nodes[i]].drop(ctx, z.key(j.id, i))
		})
		z.removed.Add(int64(done))
	}
}

func (z *Zone) repair(j *job, work []byte) {
	stripes, err := z.code.encode(work, j.size)
	if err != nil {
		return
	}
	done, _ := z.putStripes(z.ctx, j.id, j.nodes, j.stripes, stripes, j.size)
	z.repaired.Add(int64(done))
}

// repairLater reads a chunk, waits for all stripes, and puts those that are lost.
func (z *Zone) repairLater(j *job) {
	r := &reading{z: z, id: j.id, nodes: j.nodes}
	a := r.ask(z.ctx, z.all())
	defer a.end()
	object, err := a.collect(z.ctx, true)
	if err != nil {
		return
	}
	r.mu.Lock()
	j.stripes, j.size = r.lost, len(object)
	r.mu.Unlock()
	if j.stripes == 0 {
		return
	}
	buf := jobBuffers.get()
	defer jobBuffers.put(buf)
	work := buf.bytes(z.code.room(len(object)))
	copy(work, object)
	z.repair(j, work)
}

// Put puts a chunk into the zone and returns when that is done: when as many
// stripes are there as a read needs. The error is why there are not, or a
// *chunk.CorruptError. It does not keep object.
func (z *Zone) Put(ctx context.Context, id chunk.ID, object []byte) error {
	if err := z.enter(); err != nil {
		return fmt.Errorf("put chunk %v: %w", id, err)
	}
	defer z.work.Done()
	if len(object) == 0 || len(object) > chunk.MaxStoredSize {
		return &chunk.CorruptError{ID: id, Reason: fmt.Sprintf("%d bytes", len(object))}
	}
	buf := jobBuffers.get()
	defer jobBuffers.put(buf)
	work := buf.bytes(z.code.room(len(object)))
	copy(work, object)
	return z.put(ctx, id, work, len(object))
}

// put puts the chunk that work begins with, and has room to encode. It goes to the
// nodes where it is looked for first, and if too many of those are out to the next
// ones.
func (z *Zone) put(ctx context.Context, id chunk.ID, work []byte, size int) error {
	_, err := chunk.Verify(id, work[:size])
	if err != nil {
		z.undone.Add(1)
		return err
	}
	stripes, err := z.code.encode(work, size)
	if err != nil {
		z.undone.Add(1)
		return fmt.Errorf("put chunk %v: %w", id, err)
	}
	for c := range z.places.copies {
		nodes := z.places.place(id, c)
		var done int
		if done, err = z.putStripes(ctx, id, nodes, z.all(), stripes, size); done >= z.k {
			z.fills.Add(1)
			z.fillBytes.Add(int64(size))
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	z.undone.Add(1)
	return fmt.Errorf("put chunk %v: %w", id, err)
}

// putStripes puts those stripes of a chunk that are in set, and returns how many it
// could put.
func (z *Zone) putStripes(ctx context.Context, id chunk.ID, nodes []int, set stripeSet, stripes [][]byte, size int) (int, error) {
	return z.each(ctx, set, func(ctx context.Context, i int) error {
		return z.nodes[nodes[i]].set(ctx, z.key(id, i), z.header(id, i, size, stripes[i]), stripes[i])
	})
}

// each calls op for each stripe in set, all at once, and returns how many
// succeeded and why others did not.
func (z *Zone) each(ctx context.Context, set stripeSet, op func(ctx context.Context, i int) error) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, z.patience)
	defer cancel()
	errs := make([]error, z.n)
	var wait sync.WaitGroup
	for i := range z.n {
		if set.has(i) {
			wait.Go(func() { errs[i] = op(ctx, i) })
		}
	}
	wait.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	return set.count() - failed, errors.Join(errs...)
}
