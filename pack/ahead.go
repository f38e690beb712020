package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// Bounds of an Ahead.
const (
	partsAtOnce = 3        // under way
	maxHeld     = 48 << 20 // bytes of frames that nobody has read yet: no further part is asked for
)

// An Ahead is a start pack on its way before a reader of chunks: its parts are fetched, in
// their order and a few at once, as soon as it is made, and frames are held until they were
// read, or a while. Reads of chunks that it is known to cover wait for it, as long as the
// parts come. Its methods may be called by any number of goroutines.
type Ahead struct {
	get    func(ctx context.Context, part int) ([]byte, error)
	log    *slog.Logger
	ctx    context.Context // ends at Close
	cancel context.CancelFunc

	running sync.WaitGroup

	mu     sync.Mutex
	news   chan struct{} // closed, and made anew, when what follows has changed
	covers map[chunk.ID]struct{}
	chunks map[chunk.ID]*heldChunk
	held   int64
	bytes  int64 // of all parts that came
	over   bool  // no part comes any more
	closed bool
	drop   *time.Timer
}

// A heldChunk is what is here of a chunk.
type heldChunk struct {
	header []byte
	places []int64        // of the frames, in the chunk, and of its end
	frames map[int][]byte // here, and not read yet
}

// NewAhead begins to fetch a start pack. parts returns how many there are, get one of them.
// log is told if that fails, but not that there is no pack, which is chunk.ErrNotFound; nil:
// nobody is. The caller closes it.
func NewAhead(parts func(ctx context.Context) (int, error), get func(ctx context.Context, part int) ([]byte, error), log *slog.Logger) *Ahead {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &Ahead{get: get, log: log, news: make(chan struct{}), chunks: make(map[chunk.ID]*heldChunk)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.running.Go(func() { a.run(parts) })
	return a
}

func (a *Ahead) run(parts func(ctx context.Context) (int, error)) {
	ctx, cancel := context.WithTimeout(a.ctx, fetchTime)
	defer cancel()
	err := a.fetch(ctx, parts)
	if err != nil && !errors.Is(err, chunk.ErrNotFound) && a.ctx.Err() == nil {
		a.log.Warn("a start is read ahead of by single chunks, as its pack cannot be read", "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over, a.covers = true, nil
	if !a.closed {
		a.drop = time.AfterFunc(keepTime, a.forget)
	}
	a.changed()
}

// changed wakes those up who wait. The caller holds mu.
func (a *Ahead) changed() {
	close(a.news)
	a.news = make(chan struct{})
}

// fetch fetches the parts, and enters them in their order.
func (a *Ahead) fetch(ctx context.Context, parts func(ctx context.Context) (int, error)) error {
	n, err := parts(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var getting sync.WaitGroup
	defer getting.Wait()
	defer cancel()
	type part struct {
		b   []byte
		err error
	}
	coming := make([]chan part, n)
	begin := func(i int) {
		if i >= n {
			return
		}
		coming[i] = make(chan part, 1)
		getting.Go(func() {
			b, err := a.get(ctx, i)
			coming[i] <- part{b, err}
		})
	}
	for i := range partsAtOnce {
		begin(i)
	}
	for i := range n {
		p := <-coming[i]
		if p.err != nil {
			return p.err
		}
		if err := a.enter(p.b); err != nil {
			return err
		}
		if err := a.room(ctx); err != nil {
			return err
		}
		begin(i + partsAtOnce)
	}
	return nil
}

// room waits until not too much is held.
func (a *Ahead) room(ctx context.Context) error {
	for {
		a.mu.Lock()
		full, news := a.held > maxHeld, a.news
		a.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// enter makes the frames of a part readable, checked.
func (a *Ahead) enter(part []byte) error {
	d, err := NewDecoder(bytes.NewReader(part))
	if err != nil {
		return err
	}
	came := make(map[chunk.ID]*heldChunk, len(d.Index.Chunks))
	for {
		i, stored, err := d.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		f := d.Index.Frames[i]
		c := &d.Index.Chunks[f.Chunk]
		h := came[c.ID]
		if h == nil {
			if h, err = newHeld(&c.Header); err != nil {
				return err
			}
			came[c.ID] = h
		}
		h.frames[int(f.Number)] = bytes.Clone(stored)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes += int64(len(part))
	for id, h := range came {
		if a.chunks[id] != nil {
			return fmt.Errorf("%w: chunk %v is in two parts of a start pack", ErrFormat, id)
		}
		a.chunks[id] = h
		for _, b := range h.frames {
			a.held += int64(len(b))
		}
	}
	a.changed()
	return nil
}

func newHeld(h *chunk.Header) (*heldChunk, error) {
	head, err := h.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	c := &heldChunk{header: head, frames: make(map[int][]byte)}
	for i := range h.Frames {
		c.places = append(c.places, h.FrameOffset(i))
	}
	c.places = append(c.places, h.StoredSize())
	return c, nil
}

// Cover says which chunks the pack probably has frames of, as the profile tells of which it
// was made: reads of them wait while it comes. Before that none does.
func (a *Ahead) Cover(ids []chunk.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.closed {
		return
	}
	a.covers = make(map[chunk.ID]struct{}, len(ids))
	for _, id := range ids {
		a.covers[id] = struct{}{}
	}
}

// Has reports whether frames of chunk id are here, or may be soon. It does not block.
func (a *Ahead) Has(id chunk.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	_, covered := a.covers[id]
	return covered || a.chunks[id] != nil
}

// Bytes returns how many bytes of the pack have come.
func (a *Ahead) Bytes() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes
}

// Ended waits until no part comes any more, or ctx ends.
func (a *Ahead) Ended(ctx context.Context) {
	for {
		a.mu.Lock()
		over, news := a.over, a.news
		a.mu.Unlock()
		if over {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
	}
}

// forget drops what nobody has read.
func (a *Ahead) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.chunks)
	a.held = 0
	a.changed()
}

// Close ends the fetch, waits for its goroutines, and drops what is here. Reads go to the
// next reader from then on.
func (a *Ahead) Close() {
	a.mu.Lock()
	a.closed = true
	if a.drop != nil {
		a.drop.Stop()
	}
	a.mu.Unlock()
	a.cancel()
	a.running.Wait()
	a.forget()
}

// Reader returns a reader of what the pack has, and else of next: a read is answered out of
// the pack if that has all of it, a chunk's header or frames that follow each other.
func (a *Ahead) Reader(next chunk.Reader) chunk.Reader { return &aheadReader{a, next} }

type aheadReader struct {
	ahead *Ahead
	next  chunk.Reader
}

// ReadChunk implements [chunk.Reader].
func (r *aheadReader) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if n, ok := r.ahead.read(ctx, id, dst, off); ok {
		return n, nil
	}
	return r.next.ReadChunk(ctx, id, dst, off)
}

// read answers a read out of the pack, and waits for that if the chunk is covered.
func (a *Ahead) read(ctx context.Context, id chunk.ID, dst []byte, off int64) (n int, ok bool) {
	if off < 0 || len(dst) == 0 {
		return 0, false
	}
	var enough *time.Timer
	for {
		a.mu.Lock()
		if h := a.chunks[id]; h != nil {
			n, ok = h.take(a, dst, off)
			a.mu.Unlock()
			return n, ok // what is not here of it was not packed: a chunk is in one part
		}
		_, covered := a.covers[id]
		news := a.news
		covered = covered && !a.closed
		a.mu.Unlock()
		if !covered {
			return 0, false
		}
		if enough == nil {
			enough = time.NewTimer(patience)
			defer enough.Stop()
		}
		select {
		case <-news:
		case <-enough.C:
			return 0, false
		case <-a.ctx.Done():
			return 0, false
		case <-ctx.Done():
			return 0, false
		}
	}
}

// take copies what dst wants of the chunk if all of it is here, and lets go of frames that
// were read whole. The caller holds a.mu.
func (h *heldChunk) take(a *Ahead, dst []byte, off int64) (int, bool) {
	end := min(off+int64(len(dst)), h.places[len(h.places)-1])
	if off >= end {
		return 0, false
	}
	at := off
	if head := int64(len(h.header)); at < head {
		at = min(end, head)
	}
	first := -1
	for i := 0; at < end && i < len(h.places)-1; i++ {
		if h.places[i+1] <= at {
			continue
		}
		if h.frames[i] == nil {
			return 0, false
		}
		if first < 0 {
			first = i
		}
		at = h.places[i+1]
	}
	n := copy(dst, h.header[min(off, int64(len(h.header))):min(end, int64(len(h.header)))])
	for i := first; first >= 0 && i < len(h.places)-1 && h.places[i] < end; i++ {
		f := h.frames[i]
		from := max(off-h.places[i], 0)
		n += copy(dst[n:], f[from:min(int64(len(f)), end-h.places[i])])
		if from == 0 && end >= h.places[i+1] {
			delete(h.frames, i)
			a.held -= int64(len(f))
		}
	}
	if a.held <= maxHeld {
		a.changed()
	}
	return n, true
}
