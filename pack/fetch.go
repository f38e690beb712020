package pack

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// Bounds of a Fetch.
const (
	fetchTime = 30 * time.Second // a pack that is not there then is given up
	patience  = time.Second      // a read that has waited so long for a pack goes on without
	keepTime  = 2 * time.Minute  // chunks that nobody has read by then are dropped
)

// A Fetch is a pack of whole chunks that is fetched once, and read by whoever reads
// those chunks. It holds a chunk until it was read, or a while: what has read it keeps
// it as it keeps every chunk. Its methods may be called by any number of goroutines.
//
//	idle ──Start, or a read──► under way ──► here ──► over
//	                               └── failed ─────────┘   reads go to the next reader
type Fetch struct {
	get    func(ctx context.Context) ([]byte, error)
	log    *slog.Logger
	ctx    context.Context // ends at Close
	cancel context.CancelFunc

	running sync.WaitGroup // the goroutine that fetches
	ended   chan struct{}  // closed when the fetch is over, well or not

	mu      sync.Mutex // guards what follows
	covers  map[chunk.ID]struct{}
	begun   bool
	closed  bool
	objects map[chunk.ID][]byte // here, and not read yet
	drop    *time.Timer         // of objects
}

// NewFetch returns a Fetch of the pack that get returns. Reads of the chunks that it
// is known to cover wait while it is under way, a second at most. log is told if it
// fails; nil: nobody is. The caller closes it.
func NewFetch(covers []chunk.ID, get func(ctx context.Context) ([]byte, error), log *slog.Logger) *Fetch {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &Fetch{get: get, log: log, ended: make(chan struct{}), covers: make(map[chunk.ID]struct{}, len(covers))}
	for _, id := range covers {
		f.covers[id] = struct{}{}
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Start begins to fetch, if that was not done before. It does not wait.
func (f *Fetch) Start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.start()
}

// StartUnless is Start, but not if has reports that the chunks are nearer at hand. It does not wait for that. Each call
// asks its has, until the fetch has begun, and one no is enough.
func (f *Fetch) StartUnless(has func(ctx context.Context) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun || f.closed {
		return
	}
	f.running.Go(func() {
		if !has(f.ctx) {
			f.Start()
		}
	})
}

// start is Start; mu is held.
func (f *Fetch) start() {
	if f.begun || f.closed {
		return
	}
	f.begun = true
	f.running.Go(f.run)
}

func (f *Fetch) run() {
	ctx, cancel := context.WithTimeout(f.ctx, fetchTime)
	defer cancel()
	objects, err := f.fetch(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer close(f.ended)
	f.covers = nil
	if err != nil {
		if !f.closed {
			f.log.Warn("chunks are read one by one, as what has them together cannot be read", "err", err)
		}
		return
	}
	if !f.closed {
		f.objects = objects
		f.drop = time.AfterFunc(keepTime, f.forget)
	}
}

// fetch returns the chunks of the pack, checked.
func (f *Fetch) fetch(ctx context.Context) (map[chunk.ID][]byte, error) {
	b, err := f.get(ctx)
	if err != nil {
		return nil, err
	}
	d, err := NewDecoder(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	objects := make(map[chunk.ID][]byte, len(d.Index.Chunks))
	err = d.Objects(func(id chunk.ID, object []byte) error {
		objects[id] = object
		return nil
	})
	return objects, err
}

// forget drops what nobody has read.
func (f *Fetch) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects = nil
}

// Has reports whether a read of chunk id would be answered out of the pack, as far as
// is known: it is here, or may be when it was fetched. It does not block.
func (f *Fetch) Has(id chunk.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.covers != nil {
		_, ok := f.covers[id]
		return ok && !f.closed
	}
	return f.objects[id] != nil
}

// Reader returns a reader of what the pack has, and else of next. A read of a chunk
// that the pack covers begins to fetch it, and waits for it.
func (f *Fetch) Reader(next chunk.Reader) chunk.Reader { return &reader{f, next} }

type reader struct {
	fetch *Fetch
	next  chunk.Reader
}

// ReadChunk implements [chunk.Reader].
func (r *reader) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if off < 0 || len(dst) == 0 || ctx.Err() != nil || !r.fetch.await(ctx, id) {
		return r.next.ReadChunk(ctx, id, dst, off)
	}
	n, ok := r.fetch.take(id, dst, off)
	if !ok {
		return r.next.ReadChunk(ctx, id, dst, off)
	}
	return n, nil
}

// await waits for the pack if it may have chunk id, and reports whether it is worth
// looking there.
func (f *Fetch) await(ctx context.Context, id chunk.ID) bool {
	f.mu.Lock()
	if f.covers == nil {
		f.mu.Unlock()
		return true
	}
	_, covered := f.covers[id]
	if covered {
		f.start()
	}
	covered = covered && f.begun
	f.mu.Unlock()
	if !covered {
		return false
	}
	enough := time.NewTimer(patience)
	defer enough.Stop()
	select {
	case <-f.ended:
		return true
	case <-enough.C:
	case <-f.ctx.Done():
	case <-ctx.Done():
	}
	return false
}

// take copies of chunk id, if it is here. One that was read whole is dropped.
func (f *Fetch) take(id chunk.ID, dst []byte, off int64) (n int, ok bool) {
	f.mu.Lock()
	object := f.objects[id]
	if object != nil && off == 0 && len(dst) >= len(object) {
		delete(f.objects, id)
	}
	f.mu.Unlock()
	if object == nil {
		return 0, false
	}
	return copy(dst, object[min(off, int64(len(object))):]), true
}

// Close ends the fetch, waits for its goroutine, and drops what is here. Reads go to
// the next reader from then on.
func (f *Fetch) Close() {
	f.mu.Lock()
	f.closed = true
	f.objects = nil
	if f.drop != nil {
		f.drop.Stop()
	}
	f.mu.Unlock()
	f.cancel()
	f.running.Wait()
}
