package nbd

import (
	"net"
	"sync"
)

// flushBytes bounds how much is held back to be written together.
const flushBytes = 64 << 10

// A message is one simple reply or one chunk: the first n bytes of buf.
type message struct {
	buf    *buffer
	n      int
	charge charge
}

// An outbox writes the replies of one connection. Any goroutine that has one
// posts it; the first to want it written becomes the writer, and also writes
// what others post meanwhile, many messages in one system call. So there is no
// writing goroutine to wake, and never more than one writes.
type outbox struct {
	stream stream
	budget *budget
	failed func(error) // told once, of the first write error

	mu      sync.Mutex
	queue   []message // posted, not yet taken by the writer
	bytes   int       // in queue
	writing bool      // someone is the writer
	err     error

	batch []message   // the writer's
	vec   net.Buffers // the writer's
}

// post queues m, which the outbox owns from now on.
func (o *outbox) post(m message) {
	o.mu.Lock()
	o.queue = append(o.queue, m)
	o.bytes += m.n
	if o.bytes >= flushBytes && !o.writing {
		o.write()
	}
	o.mu.Unlock()
}

// flush has all that was posted written, by the caller or by whoever is at it.
func (o *outbox) flush() {
	o.mu.Lock()
	if !o.writing && len(o.queue) > 0 {
		o.write()
	}
	o.mu.Unlock()
}

// write is the writer's loop. It needs o.mu, and lets it go while it writes.
func (o *outbox) write() {
	o.writing = true
	for len(o.queue) > 0 {
		o.batch, o.queue = o.queue, o.batch[:0]
		o.bytes = 0
		if err := o.err; err == nil {
			o.mu.Unlock()
			err = o.writeBatch()
			o.mu.Lock()
			if err != nil {
				o.err = err
				o.failed(err)
			}
		}
		o.settle()
	}
	o.writing = false
}

func (o *outbox) writeBatch() error {
	o.vec = o.vec[:0]
	for i := range o.batch {
		o.vec = append(o.vec, o.batch[i].buf.b[:o.batch[i].n])
	}
	return o.stream.writeAll(o.vec)
}

// settle frees the batch and gives back what it owed.
func (o *outbox) settle() {
	var floor, shared int64
	slots := 0
	for i := range o.batch {
		m := &o.batch[i]
		floor += m.charge.floor
		shared += m.charge.shared
		if m.charge.slot {
			slots++
		}
		m.buf.free()
		*m = message{}
	}
	o.budget.release(slots, floor, shared)
}
