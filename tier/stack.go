package tier

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
)

// MaxFills bounds the fills of a [Stack] that are under way, and with them the
// chunks that it holds in memory. What comes meanwhile is not filled.
const MaxFills = 8

// A Cache is a tier of a [Stack].
//
// Only a reader can be one: of a source nobody knows whether it returned what
// was stored, so its damage could not be told from an answer, and would be
// returned while the next tier has the right bytes.
type Cache struct {
	Name   string // for errors
	Reader chunk.Reader

	// Fill puts a whole object, which has been checked, into the cache as far
	// as it likes. It runs in a goroutine of the stack's, must not keep object,
	// and bounds its own time. nil: the cache is not filled by readers.
	Fill func(id chunk.ID, object []byte)
}

// A Stack reads from caches, nearest first, and at last from the origin.
//
// What a cache does not hold, holds damaged or fails to deliver is read from
// the next one; no failure of a cache fails a read that the origin can serve.
// How long a cache may take to fail is the business of its layers ([Timeout],
// [Breaker]). Caches that missed or are damaged, not those that failed, are then
// filled: from a read of a whole object with that, for a read of a part by
// reading the whole from the tier that had it, with priority [chunk.Fill]. Fills
// run in the background, at most MaxFills at once and one for a chunk; a read
// never waits for one.
type Stack struct {
	caches []Cache
	origin chunk.Reader

	ctx     context.Context // of fills; ends at Close
	cancel  context.CancelFunc
	filling sync.WaitGroup

	mu    sync.Mutex // guards what follows
	fills map[chunk.ID]struct{}
	shut  bool
	stats StackStats
}

var _ chunk.Reader = (*Stack)(nil)

// StackStats is what a [Stack] has done so far.
type StackStats struct {
	Served  []int64 // reads by tier, the origin last
	Failed  int64   // reads that the origin failed
	Fills   int64   // chunks that caches were filled with
	Skipped int64   // chunks that were not filled, as too much was under way
}

// NewStack returns a Stack of caches before origin. The caller closes it, and
// the readers after that.
func NewStack(origin chunk.Reader, caches ...Cache) *Stack {
	s := &Stack{caches: caches, origin: origin, fills: make(map[chunk.ID]struct{})}
	s.stats.Served = make([]int64, len(caches)+1)
	s.ctx, s.cancel = context.WithCancel(chunk.WithPriority(context.Background(), chunk.Fill))
	return s
}

// Close ends the fills and returns when they have ended. Reads go on, and fill
// nothing.
func (s *Stack) Close() {
	s.mu.Lock()
	s.shut = true
	s.mu.Unlock()
	s.cancel()
	s.filling.Wait()
}

// Stats returns the counters at one moment.
func (s *Stack) Stats() StackStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.stats
	c.Served = append([]int64(nil), c.Served...)
	return c
}

// wants is the caches to be filled, a bit for each.
type wants uint64

// ReadChunk implements [chunk.Reader].
func (s *Stack) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read chunk %v: negative offset %d", id, off)
	}
	var want wants
	var failed error
	for i := range s.caches {
		n, err := s.caches[i].Reader.ReadChunk(ctx, id, dst, off)
		if err == nil {
			s.served(i, nil)
			s.fill(id, dst[:n], off, i, want)
			return n, nil
		}
		if ended := ctx.Err(); ended != nil {
			return 0, ended
		}
		if class := Classify(err); class == Missed || class == Damaged {
			want |= s.fillable(i)
		} else {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.caches[i].Name, err))
		}
	}
	n, err := s.origin.ReadChunk(ctx, id, dst, off)
	s.served(len(s.caches), err)
	if err != nil {
		if failed != nil && ctx.Err() == nil {
			// The caches' errors are told in words: the origin's decides.
			err = fmt.Errorf("%w (and before it: %v)", err, failed)
		}
		return 0, err
	}
	s.fill(id, dst[:n], off, len(s.caches), want)
	return n, nil
}

// fillable returns the bit of cache i, if that is filled.
func (s *Stack) fillable(i int) wants {
	if s.caches[i].Fill == nil {
		return 0
	}
	return 1 << i
}

func (s *Stack) served(tier int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.stats.Failed++
		return
	}
	s.stats.Served[tier]++
}

// fill has the caches that want it filled with chunk id, of which tier from
// returned got at off.
func (s *Stack) fill(id chunk.ID, got []byte, off int64, from int, want wants) {
	if want == 0 {
		return
	}
	s.mu.Lock()
	_, under := s.fills[id]
	skip := under || s.shut || len(s.fills) >= MaxFills
	if skip {
		if !under && !s.shut {
			s.stats.Skipped++
		}
		s.mu.Unlock()
		return
	}
	s.fills[id] = struct{}{}
	s.filling.Add(1)
	s.mu.Unlock()
	var object *buffer
	if off == 0 && storedSize(got) == int64(len(got)) {
		object = newBuffer(len(got)) // got is the caller's again soon
		copy(object.b, got)
	}
	go s.runFill(id, object, from, want)
}

// storedSize returns the size of the object that b is the begin of; 0 if b does
// not tell.
func storedSize(b []byte) int64 {
	h, err := chunk.ParseHeader(b)
	if err != nil {
		return 0
	}
	return h.StoredSize()
}

// runFill fills the caches that want it with object, or if that is nil with
// what tier from returns.
func (s *Stack) runFill(id chunk.ID, object *buffer, from int, want wants) {
	defer s.filling.Done()
	filled := true
	if object == nil {
		object, filled = s.whole(id, from)
	}
	if filled {
		for i := range s.caches {
			if want&(1<<i) != 0 && s.ctx.Err() == nil {
				s.caches[i].Fill(id, object.b)
			}
		}
		object.free()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fills, id)
	if filled {
		s.stats.Fills++
	}
}

// usualSize is longer than a stored chunk of the usual sizes.
const usualSize = chunk.Size + 8<<10

// whole reads a whole object from a tier.
func (s *Stack) whole(id chunk.ID, from int) (*buffer, bool) {
	r := s.origin
	if from < len(s.caches) {
		r = s.caches[from].Reader
	}
	for size := int64(usualSize); ; {
		object := newBuffer(int(size))
		n, err := r.ReadChunk(s.ctx, id, object.b, 0)
		if err == nil {
			switch need := storedSize(object.b[:n]); {
			case need == int64(n):
				object.b = object.b[:n]
				return object, true
			case need > size: // once: of checked bytes the header is right
				object.free()
				size = need
				continue
			}
		}
		object.free()
		return nil, false
	}
}
