package nbd

import "sync"

const (
	flushBytes = 64 << 10 // how much is held back to be written together
	smallBytes = 16 << 10 // messages up to this are copied together
)

// A message is one simple reply or one chunk: buf from byte from to byte to.
type message struct {
	buf      *buffer
	from, to int
	charge   charge
}

func (m *message) bytes() []byte { return m.buf.b[m.from:m.to] }

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

	batch []message // the writer's
	small []byte    // the writer's: messages copied together
}

// post queues m, which the outbox owns from now on.
func (o *outbox) post(m message) {
	o.mu.Lock()
	o.queue = append(o.queue, m)
	o.bytes += m.to - m.from
	o.mu.Unlock()
}

// flush has all that was posted written, by the caller or by whoever is at it,
// if that is at least so many bytes.
func (o *outbox) flush(least int) {
	o.mu.Lock()
	if !o.writing && len(o.queue) > 0 && o.bytes >= least {
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

// writeBatch writes the batch. Runs of small messages are copied together: that
// costs less than a system call for each.
func (o *outbox) writeBatch() error {
	for i := 0; i < len(o.batch); {
		p := o.batch[i].bytes()
		i++
		if len(p) <= smallBytes && i < len(o.batch) {
			o.small = append(o.small[:0], p...)
			for ; i < len(o.batch); i++ {
				q := o.batch[i].bytes()
				if len(o.small)+len(q) > flushBytes || len(q) > smallBytes {
					break
				}
				o.small = append(o.small, q...)
			}
			p = o.small
		}
		if err := o.stream.write(p); err != nil {
			return err
		}
	}
	return nil
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
