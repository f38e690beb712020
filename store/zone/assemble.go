package zone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/zone/internal/wire"
)

// maxTries bounds how many sets of stripes one read tries to make a chunk of.
const maxTries = 64

var (
	errForged = errors.New("stripe is forged")
	// ErrUnavailable is returned (wrapped) when too few nodes have answered to
	// tell whether the zone holds a chunk.
	ErrUnavailable = errors.New("too few nodes of the zone answered")
)

// An assembly makes a chunk of the stripes that nodes answer with.
type assembly struct {
	*reading
	cancel  context.CancelFunc // of requests that have not been sent
	answers chan answer        // has room for all

	// The collector's.
	pending int // answers that may still come
	missing int
	failed  error
	got     [MaxStripes]answer
	usable  stripeSet // stripes in got
	tries   int
	refused error   // of the taker, with which it ends; nil: none
	buf     *buffer // of the object; nil: none yet

	handing sync.Mutex // guards over
	over    bool       // nobody collects any more
}

// deliver hands an answer to the collector. What comes when that has ended is
// looked at all the same, for what it says of the stripe.
func (a *assembly) deliver(ans answer) {
	a.handing.Lock()
	over := a.over
	if !over {
		a.answers <- ans
	}
	a.handing.Unlock()
	if over {
		a.late(ans)
	}
}

func (a *assembly) late(ans answer) {
	a.note(&ans)
	ans.release()
}

// end ends the assembly: requests that have not been sent are not, and buffers
// are given back.
func (a *assembly) end() {
	a.cancel()
	a.handing.Lock()
	a.over = true
	a.handing.Unlock()
	for {
		select {
		case ans := <-a.answers:
			a.late(ans)
			continue
		default:
		}
		break
	}
	for i := range a.got {
		a.got[i].release()
	}
	if a.buf != nil {
		objectBuffers.put(a.buf)
	}
}

// note tells the reading of a stripe that is lost, and reports whether this one
// is.
func (a *assembly) note(ans *answer) (lost bool) {
	switch {
	case errors.Is(ans.err, wire.ErrMissing):
		a.lose(ans.index, false)
		return true
	case errors.Is(ans.err, errStripe):
		a.z.bad.Add(1)
		a.lose(ans.index, true)
		return true
	}
	return false
}

// collect takes answers until they make the chunk, and returns it; it is good
// until end. With patience it then waits for the other answers too.
func (a *assembly) collect(ctx context.Context, patient bool) ([]byte, error) {
	var object []byte
	for a.pending > 0 && (object == nil || patient) {
		select {
		case ans := <-a.answers:
			a.pending--
			if a.take(&ans) && object == nil {
				object = a.try(ans.index)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if a.refused != nil {
			return nil, refusal{a.refused}
		}
		if object == nil && a.usable.count()+a.pending < a.z.k {
			break
		}
	}
	if object == nil {
		return nil, a.failure()
	}
	return object, nil
}

// take keeps an answer that is a stripe, and counts another.
func (a *assembly) take(ans *answer) bool {
	switch {
	case ans.err == nil:
		a.got[ans.index] = *ans
		a.usable |= 1 << ans.index
		return true
	case a.note(ans):
		a.missing++
	default:
		a.failed = ans.err
	}
	ans.release()
	return false
}

// failure says why there is no chunk.
func (a *assembly) failure() error {
	switch {
	case a.usable.count() >= a.z.k:
		for i := range a.got {
			if a.usable.has(i) {
				a.lose(i, true)
			}
		}
		return &chunk.CorruptError{ID: a.id, Reason: "no stripes of the zone make it"}
	case a.failed == nil || a.missing > a.z.n-a.z.k:
		return fmt.Errorf("read chunk %v: %w", a.id, chunk.ErrNotFound)
	}
	// Its text alone: that a node's time is over does not mean that the caller's is.
	return fmt.Errorf("read chunk %v: %w: %d of %d stripes, %d needed, %d missing: %v",
		a.id, ErrUnavailable, a.usable.count(), a.z.n, a.z.k, a.missing, a.failed)
}

// try makes the chunk of the stripe that came last and others. What a server
// forged has a good checksum, so if the chunk is not the one that was asked for,
// other sets of stripes are tried as they come.
func (a *assembly) try(newest int) []byte {
	var group stripeSet // stripes that agree on the size
	size := a.got[newest].size
	for i := range a.got {
		if a.usable.has(i) && a.got[i].size == size {
			group |= 1 << i
		}
	}
	if group.count() < a.z.k {
		return nil
	}
	for set := group; set != 0 && a.tries < maxTries && a.refused == nil; set = (set - 1) & group { // all subsets
		if !set.has(newest) || set.count() != a.z.k {
			continue
		}
		a.tries++
		if object := a.rebuild(set, size); object != nil {
			if a.tries > 1 {
				a.expose(object)
			}
			return object
		}
	}
	return nil
}

// rebuild makes the chunk of a set of stripes, or returns nil if they do not.
func (a *assembly) rebuild(set stripeSet, size int) []byte {
	stripes := make([][]byte, a.z.n)
	for i := range stripes {
		if set.has(i) {
			stripes[i] = a.got[i].payload
		}
	}
	if a.buf == nil {
		a.buf = objectBuffers.get()
	}
	buf := a.buf.bytes(a.z.k * a.z.payload(size))
	if err := a.z.code.decode(buf, stripes); err != nil {
		return nil
	}
	if !a.accept(buf[:size]) {
		return nil
	}
	if a.z.k > 1 && (set&(1<<a.z.k-1)).count() < a.z.k {
		a.z.rebuilt.Add(1)
	}
	return buf[:size]
}

// accept reports whether object is the chunk that was asked for. A taker has a door
// of its own, which is enough unless somebody is found to lie.
func (a *assembly) accept(object []byte) bool {
	if a.taker == nil || a.tries > 1 {
		if _, err := chunk.Verify(a.id, object); err != nil {
			return false
		}
	}
	if a.taker == nil {
		return true
	}
	err := a.taker(object)
	var corrupt *chunk.CorruptError
	if err != nil && !errors.As(err, &corrupt) {
		a.refused = err
	}
	return err == nil
}

// expose finds the stripes that are not those of the object.
func (a *assembly) expose(object []byte) {
	work := make([]byte, a.z.code.room(len(object)))
	copy(work, object)
	right, err := a.z.code.encode(work, len(object))
	if err != nil {
		return
	}
	for i := range a.got {
		if a.usable.has(i) && !bytes.Equal(a.got[i].payload, right[i]) {
			a.z.bad.Add(1)
			a.z.forged.Add(1)
			a.lose(i, true)
			a.z.nodes[a.nodes[i]].distrust()
		}
	}
}
