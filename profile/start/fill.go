package start

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/internal/tokenbucket"
)

const (
	// fillsAtOnce bounds the chunks that a Fill asks for at a time, whatever their size:
	// as many fills as a store's line lets go at once (tier.Limit).
	fillsAtOnce = 16
	// fillWindow is how much a Fill has under way at first, and at least, in stored bytes.
	fillWindow = 1 << 20
	// fillPasses is how often a chunk is tried, each time when all others were.
	fillPasses = 3
	// fillPause is how long a Fill waits after a failure, or while the cache is away.
	fillPause = time.Second
)

// FillOptions bound a Fill. The zero value is usable.
type FillOptions struct {
	Rate int64 // stored bytes a second; 0: no bound
	// Away reports whether the cache is away, so that what is read would be kept
	// nowhere; it does not block. nil: it never is.
	Away func(id chunk.ID) bool
	// Packed reports whether a chunk comes with others, in one object, so that its read
	// tells nothing of the way to the store; nil: none does.
	Packed func(id chunk.ID) bool
	// Waits reports whether somebody waits for a read of the disk at present. It does not
	// block. nil: nobody does.
	Waits func() bool
}

// FillProgress is how far a Fill is.
type FillProgress struct {
	Chunks int   // of the disk
	Done   int   // of them, those that were read
	Bytes  int64 // stored, of those
	Failed int   // chunks that could not be read, so far
	Paused bool
}

// A Fill reads all of a disk's chunks once, through a cache that keeps them, as nobody
// waits for (chunk.Fill). Of what the cache has it reads no more than the header, and has it
// get the rest of what it has an extract of. It has
// as much under way as fills the way to the store, and hardly more, so that reads which
// somebody waits for find that way free. Its methods may be called by any number of
// goroutines; Run is called once.
type Fill struct {
	m   *blockmap.Map
	r   chunk.Reader
	opt FillOptions

	mu     sync.Mutex // guards what follows
	p      FillProgress
	pipe   *pipe
	under  int           // chunks
	over   chan struct{} // holds one when a chunk is over that Run may wait for
	order  *order        // of this pass; nil before the first
	at     int           // behind where the disk was read last
	beside bool          // who waited last did so for a chunk that was not asked for here
	bucket tokenbucket.Bucket
	resume chan struct{} // closed when it goes on; nil: it is not paused
}

// NewFill returns a Fill of the disk of m, by way of r.
func NewFill(m *blockmap.Map, r chunk.Reader, opt FillOptions) *Fill {
	f := &Fill{m: m, r: r, opt: opt, p: FillProgress{Chunks: m.Len()}, over: make(chan struct{}, 1)}
	f.pipe = newPipe(time.Now(), fillGain, fillWindow, fillWindow)
	rate := float64(opt.Rate)
	f.bucket = tokenbucket.Bucket{PerSecond: rate, Burst: max(rate, 1)}
	return f
}

// Run reads until all is read, or ctx ends. The error says that chunks could not be read.
// It starts goroutines, and waits for them.
func (f *Fill) Run(ctx context.Context) error {
	ctx = chunk.WithPriority(ctx, chunk.Fill)
	todo := make([]int, f.m.Len())
	for i := range todo {
		todo[i] = i
	}
	var err error
	for pass := 0; pass < fillPasses && len(todo) > 0 && ctx.Err() == nil; pass++ {
		todo, err = f.pass(ctx, todo)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(todo) > 0 {
		return fmt.Errorf("fill: %d chunks of %d could not be read: %w", len(todo), f.m.Len(), err)
	}
	return nil
}

// pass reads the chunks at those positions, and returns which failed, and why the last
// of them did.
func (f *Fill) pass(ctx context.Context, todo []int) (failed []int, err error) {
	f.mu.Lock()
	f.order = newOrder(f.m.Len(), todo)
	f.order.from = f.at
	f.mu.Unlock()
	var mu sync.Mutex
	var running sync.WaitGroup
	for {
		pos, ok := f.await(ctx)
		if !ok {
			break
		}
		running.Go(func() {
			readErr := f.read(ctx, pos)
			if readErr != nil {
				mu.Lock()
				failed, err = append(failed, pos), readErr
				mu.Unlock()
				sleep(ctx, fillPause) // with its place, so that failures do not come faster
			}
			f.leave()
		})
	}
	running.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.p.Failed = len(failed)
	return failed, err
}

// Touch is told of first reads; see disk.Disk.OnTouch. What lies behind them comes next. A
// reader that waits for what the Fill brings is served best by more of that, any other one
// by as little as possible in its way.
func (f *Fill) Touch(t disk.Touch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = t.Chunk + 1
	if f.order == nil {
		return
	}
	f.order.from = f.at
	if t.Waited > 0 {
		f.beside = f.order.has(t.Chunk)
	}
}

// await waits until a chunk may be read, and enters it as under way. ok is false when
// there is none left, or ctx has ended.
func (f *Fill) await(ctx context.Context) (pos int, ok bool) {
	for {
		waits := f.opt.Waits != nil && f.opt.Waits()
		f.mu.Lock()
		if pos, ok = f.order.peek(); !ok {
			f.mu.Unlock()
			return 0, false
		}
		c := f.m.Chunk(pos)
		away := f.opt.Away != nil && f.opt.Away(c.ID)
		resume, wait := f.resume, time.Duration(0)
		room := f.under < fillsAtOnce && f.pipe.room(int64(c.Stored)) && (!waits || !f.beside || f.pipe.lane(int64(c.Stored)))
		if resume == nil && !away && room && f.opt.Rate > 0 {
			// What is larger than the bucket is owed.
			if wait = f.bucket.Wait(time.Now(), min(float64(c.Stored), f.bucket.Burst)); wait == 0 {
				f.bucket.Take(time.Now(), float64(c.Stored))
			}
		}
		free := resume == nil && !away && room && wait == 0
		switch {
		case free:
			f.order.take()
			f.pipe.ask(int64(c.Stored))
			f.under++
		case resume != nil || away || wait > 0 || waits || f.under == fillsAtOnce:
			f.pipe.starve()
		}
		f.mu.Unlock()
		switch {
		case resume != nil:
			select {
			case <-resume:
			case <-ctx.Done():
			}
		case wait > 0:
			sleep(ctx, wait)
		case away:
			sleep(ctx, fillPause)
		case free:
			return pos, ctx.Err() == nil
		default:
			select {
			case <-f.over:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return 0, false
		}
	}
}

// read has the chunk at pos brought, and enters what became of it.
func (f *Fill) read(ctx context.Context, pos int) error {
	c := f.m.Chunk(pos)
	packed := f.opt.Packed != nil && f.opt.Packed(c.ID) // as yet
	begun := time.Now()
	var trace chunk.Trace
	all, err := f.bring(chunk.WithTrace(ctx, &trace), c)
	brought := int64(0)
	if all && trace.Reached() > chunk.HostCache && !packed && !joined(&trace, begun) {
		brought = int64(c.Stored)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pipe.done(time.Now(), int64(c.Stored), brought, time.Since(begun), trace.Reached())
	if err != nil {
		return err
	}
	f.p.Done++
	f.p.Bytes += int64(c.Stored)
	return nil
}

// joined reports whether what a read has waited for was begun by others, before it: then
// how long it took tells nothing of the way.
func joined(t *chunk.Trace, begun time.Time) (before bool) {
	t.Each(func(s *chunk.Step) {
		before = before || s.Tier > chunk.HostCache && s.Err == nil && s.Begun.Before(begun)
	})
	return before
}

// bring reads a chunk: its header, and unless a cache had that, which has the rest then or
// is getting it, all of it. If what the cache had was an extract, it is told to get the rest.
// all reports whether all of it came.
func (f *Fill) bring(ctx context.Context, c blockmap.Chunk) (all bool, err error) {
	frames := (int64(c.Size) + 1<<f.m.Info().FrameLog2 - 1) >> f.m.Info().FrameLog2
	b := make([]byte, c.Stored)
	head := b[:min(len(b), chunk.HeaderLen(int(frames)))]
	if _, err := f.r.ReadChunk(ctx, c.ID, head, 0); err != nil {
		return false, err
	}
	if chunk.TraceOf(ctx).Reached() == chunk.HostCache {
		if frames <= chunk.MaxExtract {
			_, err = f.r.ReadChunk(chunk.WithExtract(ctx, 1<<frames-1), c.ID, head, 0)
		}
		return false, err
	}
	n, err := f.r.ReadChunk(ctx, c.ID, b, 0)
	if err == nil && n != len(b) {
		err = &chunk.CorruptError{ID: c.ID, Reason: fmt.Sprintf("%d bytes, want %d", n, c.Stored)}
	}
	return err == nil, err
}

// leave says that a chunk is not under way any more.
func (f *Fill) leave() {
	f.mu.Lock()
	f.under--
	f.mu.Unlock()
	select {
	case f.over <- struct{}{}:
	default:
	}
}

// Pause holds the Fill up, or has it go on. What is under way then comes.
func (f *Fill) Pause(pause bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if pause == (f.resume != nil) {
		return
	}
	if pause {
		f.resume = make(chan struct{})
	} else {
		close(f.resume)
		f.resume = nil
	}
}

// Progress returns how far it is.
func (f *Fill) Progress() FillProgress {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.p
	p.Paused = f.resume != nil
	return p
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
