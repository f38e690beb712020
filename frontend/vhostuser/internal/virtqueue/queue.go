package virtqueue

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// ErrBroken is in every error that says that the other end does not keep to the
// rules. The queue is of no more use then, until it is made anew.
var ErrBroken = errors.New("virtqueue is broken")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrBroken, fmt.Errorf(format, args...))
}

// A Config says where a queue lies and how it is used.
type Config struct {
	Size              int    // descriptors: a power of two, at most MaxSize
	Desc, Avail, Used uint64 // front end's addresses
	Next              uint16 // index of the first available entry that was not taken
	Indirect          bool   // VIRTIO_F_INDIRECT_DESC was negotiated
	EventIndex        bool   // VIRTIO_F_EVENT_IDX was negotiated
	// Inflight is where the queue notes what it has taken, InflightBytes(Size)
	// bytes at a multiple of 8; nil: nowhere. With it, Next is not used: the
	// memory tells.
	Inflight []byte
}

// A Queue is the device's end of a virtqueue.
//
// One goroutine at a time takes chains: Next, Arm, Quiet and NextIndex. Any may
// complete them. What belongs to whom:
//
//	the taker    next, seen, resubmit
//	mu           the used ring, done, published, signalled, quiet, busy, the record
type Queue struct {
	mem               *Memory
	size              uint32
	desc, avail, used []byte
	indirect, events  bool

	next     uint16   // index of the next available entry
	seen     uint16   // the available index when it was last read
	resubmit []uint16 // heads to be taken before anything else: what a process before took
	fence    uint32

	mu        sync.Mutex
	record    *record  // nil: there is none
	busy      []uint64 // a bit for each head that was taken
	done      []uint16 // heads completed and not published
	published uint16   // the used index
	signalled uint16   // the used index when it was last decided whether to signal
	told      bool     // that was decided once; before, a process may have died over it
	quiet     bool     // flagQuiet is set
}

// New returns the queue that c describes, in mem. It reads the memory, and what
// an earlier process was at when it ended is taken once more.
func New(mem *Memory, c Config) (*Queue, error) {
	if c.Size < 1 || c.Size > MaxSize || bits.OnesCount(uint(c.Size)) != 1 {
		return nil, fmt.Errorf("virtqueue of %d descriptors: no power of two up to %d", c.Size, MaxSize)
	}
	q := &Queue{
		mem: mem, size: uint32(c.Size), indirect: c.Indirect, events: c.EventIndex, next: c.Next,
		busy: make([]uint64, (c.Size+63)/64), done: make([]uint16, 0, c.Size),
	}
	var err error
	for _, part := range []struct {
		what        string
		to          *[]byte
		addr, bytes uint64
		align       uint64
	}{
		{"descriptors", &q.desc, c.Desc, DescBytes(c.Size), 16},
		{"available ring", &q.avail, c.Avail, AvailBytes(c.Size), 2},
		{"used ring", &q.used, c.Used, UsedBytes(c.Size), 4},
	} {
		if *part.to, err = mem.User(part.addr, part.bytes, part.align); err != nil {
			return nil, fmt.Errorf("%s: %w", part.what, err)
		}
	}
	q.published = loadIndex(q.used)
	if c.Inflight != nil {
		if q.record, q.resubmit, err = openRecord(c.Inflight, c.Size, q.published); err != nil {
			return nil, err
		}
		q.next = q.published + uint16(len(q.resubmit))
	}
	q.seen = q.next
	q.storeUsed()
	return q, nil
}

// NextIndex is the index of the available entry that is taken next. While
// something is left to be taken once more it means nothing.
func (q *Queue) NextIndex() uint16 { return q.next }

// Next takes the next chain into c. It returns false if there is none now, and an
// error if there is one that breaks the rules.
func (q *Queue) Next(c *Chain) (bool, error) {
	var head uint16
	if len(q.resubmit) > 0 {
		head, q.resubmit = q.resubmit[0], q.resubmit[1:]
		if err := q.take(head, false); err != nil {
			return false, err
		}
		err := q.walk(head, c)
		return err == nil, err
	}
	if q.seen == q.next {
		if q.seen = loadIndex(q.avail); q.seen == q.next {
			return false, nil
		}
		if n := q.seen - q.next; uint32(n) > q.size {
			q.seen = q.next
			return false, broken("available index moved by %d, of %d descriptors", n, q.size)
		}
	}
	head = load16(q.avail, ringHeader+2*int(uint32(q.next)&(q.size-1)))
	if uint32(head) >= q.size {
		return false, broken("descriptor %d of %d", head, q.size)
	}
	if err := q.take(head, true); err != nil {
		return false, err
	}
	q.next++
	err := q.walk(head, c)
	return err == nil, err
}

// take notes that head is being worked on.
func (q *Queue) take(head uint16, note bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	word, bit := &q.busy[head/64], uint64(1)<<(head%64)
	if *word&bit != 0 {
		return broken("descriptor %d is made available again before it is used", head)
	}
	*word |= bit
	if note && q.record != nil {
		q.record.begin(head)
	}
	return nil
}

// Complete says that a chain was used, of which n bytes were written. The driver
// learns that by Publish. It returns how many wait for that.
func (q *Queue) Complete(head uint16, n uint32) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := ringHeader + usedSize*int(uint32(q.published+uint16(len(q.done)))&(q.size-1))
	element := q.used[at : at+usedSize]
	*(*uint32)(unsafe.Pointer(&element[0])) = uint32(head)
	*(*uint32)(unsafe.Pointer(&element[4])) = n
	if q.record != nil {
		q.record.end(head)
	}
	q.busy[head/64] &^= 1 << (head % 64)
	q.done = append(q.done, head)
	return len(q.done)
}

// Publish shows the driver what was completed, and reports whether it wants to be
// signalled.
func (q *Queue) Publish() (signal bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.done) == 0 {
		return false
	}
	q.published += uint16(len(q.done))
	q.storeUsed()
	if q.record != nil {
		q.record.publish(q.done, q.published)
	}
	q.done = q.done[:0]
	old, told := q.signalled, q.told
	q.signalled, q.told = q.published, true
	if !told {
		return true
	}
	// Nothing may be read before the index is seen by the other end: the load
	// cannot overtake the store, nor what follows it the load.
	word, _ := indexWord(q.used)
	atomic.LoadUint32(word)
	if q.events {
		return needsEvent(load16(q.avail, ringHeader+2*int(q.size)), q.published, old)
	}
	return load16(q.avail, 0)&flagQuiet == 0
}

// storeUsed writes flags and index of the used ring, which is aligned to them.
func (q *Queue) storeUsed() {
	v := uint32(q.published) << 16
	if q.quiet {
		v |= flagQuiet
	}
	word, _ := indexWord(q.used)
	atomic.StoreUint32(word, v)
}

// Arm asks the driver to signal when it makes more available, and reports whether
// there is more already.
func (q *Queue) Arm() bool {
	if len(q.resubmit) > 0 {
		return true
	}
	if q.events {
		store16(q.used, ringHeader+usedSize*int(q.size), q.next)
	} else {
		q.setQuiet(false)
	}
	atomic.AddUint32(&q.fence, 1) // the load must not overtake the store
	return loadIndex(q.avail) != q.next
}

// Waiting reports whether there is something to take.
func (q *Queue) Waiting() bool { return len(q.resubmit) > 0 || loadIndex(q.avail) != q.next }

// Quiet asks the driver not to signal. With the event index it does not anyway,
// once it has.
func (q *Queue) Quiet() {
	if !q.events {
		q.setQuiet(true)
	}
}

func (q *Queue) setQuiet(quiet bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.quiet != quiet {
		q.quiet = quiet
		q.storeUsed()
	}
}

// Resubmitted is how many of the next chains were taken by an earlier process
// already. It is asked before the first Next.
func (q *Queue) Resubmitted() int { return len(q.resubmit) }
