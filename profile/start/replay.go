package start

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/profile"
)

// Defaults and bounds of a Replay.
const (
	// DefaultUnread is how many frames may have been brought and not read: 64 MiB.
	DefaultUnread = 1024
	// MaxFetches bounds the fetches under way, whatever their size.
	MaxFetches = 64

	// A start goes another way when of so many frames that it has read, at least,
	// fewer than one in so many are of the profile.
	judgedFrom  = 128
	strangeness = 4

	// maxFailures is how many fetches in a row may fail: then the store has other
	// troubles than to serve what nobody asked for.
	maxFailures = 4
)

// A Disk is what is read ahead of: a *disk.Disk.
type Disk interface {
	Map() *blockmap.Map
	Fetch(ctx context.Context, pos int, frames disk.Frames) (disk.Brought, error)
}

var _ Disk = (*disk.Disk)(nil)

// ReplayOptions bound a Replay. The zero value is usable.
type ReplayOptions struct {
	// Budget bounds the stored bytes that are brought; 0: what the profile's frames
	// take, as far as the block map tells. It may be passed by what is under way.
	Budget int64
	// Unread bounds the frames that were brought and not read yet, which memory has
	// to hold; 0: DefaultUnread.
	Unread int
	// Skip reports whether a chunk comes by another way, and is not to be fetched; nil:
	// none does.
	Skip func(id chunk.ID) bool
}

// Why a Replay ended.
var (
	// ErrStrange says that the start reads other frames than the profile has.
	ErrStrange = errors.New("the start goes another way than the profile")
	// ErrBudget says that as much was brought as was allowed.
	ErrBudget = errors.New("the budget is spent")
	// ErrFailing says that fetches fail one after the other.
	ErrFailing = errors.New("fetches fail")
)

// Progress is how far a Replay is.
type Progress struct {
	Planned int   // frames of the profile that are worth fetching
	Fetched int   // of them, those that were asked for, and that the disk has now
	Brought int   // of them, those that were lacking
	Bytes   int64 // stored bytes that came for them
	Budget  int64 // bound of that
	Window  int64 // stored bytes that may be under way, at last

	Read  int // frames that the start has read
	Named int // of them, those that the profile has
}

// A Replay reads ahead of one start by the profile of others. Its methods may be called
// by any number of goroutines; Run is called once.
type Replay struct {
	disk  Disk
	opt   ReplayOptions
	plan  []want
	ready chan struct{} // holds one when something has changed that Run may wait for

	mu       sync.Mutex // guards what follows
	frames   map[profile.Frame]state
	p        Progress
	pipe     *pipe
	under    int // fetches
	unread   int
	failures int // in a row
	ending   error
}

// A state is how far a frame of the profile is; it only rises.
type state uint8

const (
	planned state = iota
	brought
	read
)

// A want is frames of one chunk.
type want struct {
	pos    int
	frames disk.Frames
	cost   int64 // stored bytes, about
}

// NewReplay plans to read ahead of a start of d. The order is that of the profile; frames
// of one chunk come together, with the first of them; rare ones (profile.Profile.Rare),
// and those of chunks to skip, not at all. The error is that p does not fit d's block map.
func NewReplay(d Disk, p *profile.Profile, opt ReplayOptions) (*Replay, error) {
	m := d.Map()
	if err := p.Fits(m); err != nil {
		return nil, fmt.Errorf("read ahead: %w", err)
	}
	r := &Replay{disk: d, opt: opt, ready: make(chan struct{}, 1), frames: make(map[profile.Frame]state), pipe: newPipe(time.Now(), replayGain, MinWindow, FirstWindow)}
	for i := range p.Entries {
		r.frames[p.Entries[i].Frame] = planned
	}
	for _, step := range p.Plan() {
		if opt.Skip != nil && opt.Skip(m.Chunk(int(step.Chunk)).ID) {
			continue
		}
		w := want{pos: int(step.Chunk)}
		for _, f := range step.Frames {
			w.frames.Add(int(f))
		}
		r.plan = append(r.plan, w)
		r.p.Planned += len(step.Frames)
	}
	info := m.Info()
	for i := range r.plan {
		w := &r.plan[i]
		c := m.Chunk(w.pos)
		all := (int64(c.Size) + 1<<info.FrameLog2 - 1) >> info.FrameLog2
		head := int64(chunk.HeaderLen(int(all)))
		w.cost = head + (int64(c.Stored)-head)*int64(w.frames.Len())/all
		r.p.Budget += w.cost
	}
	if opt.Budget > 0 {
		r.p.Budget = opt.Budget
	}
	if r.opt.Unread == 0 {
		r.opt.Unread = DefaultUnread
	}
	return r, nil
}

// Touch is told of first reads; see disk.Disk.OnTouch.
func (r *Replay) Touch(t disk.Touch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.Read++
	f := profile.Frame{Chunk: uint32(t.Chunk), Number: uint16(t.Frame)}
	if s, ok := r.frames[f]; ok {
		r.p.Named++
		if s == brought {
			r.unread--
		}
		r.frames[f] = read
	}
	if r.p.Read >= judgedFrom && r.p.Named*strangeness < r.p.Read && r.ending == nil {
		r.ending = ErrStrange
	}
	r.changed()
}

// changed wakes Run up.
func (r *Replay) changed() {
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

// Progress returns how far it is.
func (r *Replay) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.p
	p.Window = r.pipe.window
	return p
}

// Run reads ahead until all is there, ctx ends, or it does not help: the error is why it
// ended before its time. It starts goroutines, and waits for them.
func (r *Replay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for i := range r.plan {
		w := &r.plan[i]
		if err := r.await(ctx, w); err != nil {
			return err
		}
		running.Go(func() {
			begun := time.Now()
			b, err := r.disk.Fetch(ctx, w.pos, w.frames)
			r.done(w, b, err, time.Since(begun))
		})
	}
	running.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ending
}

// await waits until w may be asked for, and enters it as under way.
func (r *Replay) await(ctx context.Context, w *want) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if ok, err := r.begin(w); ok || err != nil {
			return err
		}
		select {
		case <-r.ready:
		case <-ctx.Done():
		}
	}
}

func (r *Replay) begin(w *want) (ok bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ending != nil:
		return false, r.ending
	case r.p.Bytes >= r.p.Budget:
		r.ending = ErrBudget
		return false, r.ending
	case r.unread >= r.opt.Unread || r.under >= MaxFetches:
		r.pipe.starve()
		return false, nil
	case !r.pipe.room(w.cost):
		return false, nil
	}
	r.pipe.ask(w.cost)
	r.under++
	return true, nil
}

// done enters what became of w.
func (r *Replay) done(w *want, b disk.Brought, err error, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.under--
	r.pipe.done(time.Now(), w.cost, b.Bytes, took, b.From)
	r.p.Bytes += b.Bytes
	switch {
	case err == nil:
		r.failures = 0
		r.p.Fetched += w.frames.Len()
		r.p.Brought += b.Frames
		if b.Frames > 0 {
			r.brought(w)
		}
	case errors.Is(err, disk.ErrClosed), errors.Is(err, context.Canceled):
		r.end(err)
	default:
		if r.failures++; r.failures >= maxFailures {
			r.end(fmt.Errorf("%w: %w", ErrFailing, err))
		}
	}
	r.changed()
}

func (r *Replay) end(err error) {
	if r.ending == nil {
		r.ending = err
	}
}

// brought marks the frames of w as being in memory, until they are read.
func (r *Replay) brought(w *want) {
	for i := range chunk.MaxFrames {
		f := profile.Frame{Chunk: uint32(w.pos), Number: uint16(i)}
		if w.frames.Has(i) && r.frames[f] == planned {
			r.frames[f] = brought
			r.unread++
		}
	}
}
