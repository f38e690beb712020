package generation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// DefaultLook is how often a reader looks again for where its image is.
const DefaultLook = 5 * time.Minute

// Options of a View; the zero value is usable.
type Options struct {
	Who     string           // told in alarms and pins; "": host and process
	Look    time.Duration    // how often to look for where an image is; 0: DefaultLook
	Now     func() time.Time // the clock; nil: time.Now
	Logger  *slog.Logger     // told of alarms, and of marks that could not be made; nil: nobody
	OnAlarm func(Alarm)      // told of each alarm, for a metric; nil: nobody
}

// A View is an origin as readers see it: all generations that can be read as if
// they were one. Of a name that several have, the newest one's holds. Any number
// of calls may run at once.
type View struct {
	origin origin.Origin
	opt    Options

	mu     sync.Mutex // guards what follows
	raised map[string]bool
	seen   List      // the states that were read last; nil: none
	seenAt time.Time // when, by opt.Now
}

// fresh is how old states may be for who looks for what never changes.
const fresh = 5 * time.Second

// NewView returns a view of o.
func NewView(o origin.Origin, opt Options) *View {
	if opt.Who == "" {
		host, _ := os.Hostname()
		opt.Who = fmt.Sprintf("%s, process %d", host, os.Getpid())
	}
	if opt.Look == 0 {
		opt.Look = DefaultLook
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return &View{origin: o, opt: opt, raised: make(map[string]bool)}
}

// Origin returns the origin that v is a view of.
func (v *View) Origin() origin.Origin { return v.origin }

// states reads the states.
func (v *View) states(ctx context.Context) (List, error) {
	at := v.opt.Now()
	l, err := Load(ctx, v.origin)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen, v.seenAt = l, at
	return slices.Clone(l), nil
}

// States returns the states as they are or were up to five seconds ago, so that who
// has found something just now need not ask for them again. A name may have moved
// since; what is named by its digest is where it was, or Open and Attach see that
// the states have changed.
func (v *View) States(ctx context.Context) (List, error) {
	v.mu.Lock()
	l, age := v.seen, v.opt.Now().Sub(v.seenAt)
	v.mu.Unlock()
	if l != nil && age >= 0 && age < fresh {
		return slices.Clone(l), nil
	}
	return v.states(ctx)
}

// retry calls fn with the states until it finds what it looks for, or the
// states have not changed since before it looked: what fn missed may have been
// carried from a generation that it had still to look at to one that it had
// looked at already. fn tells by chunk.ErrNotFound that it found nothing.
func (v *View) retry(ctx context.Context, fn func(l List) error) (List, error) {
	return v.retryFrom(ctx, v.states, fn)
}

// retryFrom is retry that begins with what states returns.
func (v *View) retryFrom(ctx context.Context, states func(context.Context) (List, error), fn func(l List) error) (List, error) {
	l, err := states(ctx)
	for err == nil {
		err = fn(l)
		if !errors.Is(err, chunk.ErrNotFound) {
			break
		}
		again, loadErr := v.states(ctx)
		if loadErr != nil || slices.Equal(l, again) {
			return l, errors.Join(loadErr, err)
		}
		l, err = again, nil
	}
	return l, err
}

// Find returns the digest of the block map that ref means, as catalog.Find has
// it. An unknown one is chunk.ErrNotFound.
func (v *View) Find(ctx context.Context, ref string) (d origin.Digest, err error) {
	if _, isDigest := catalog.ParseRef(ref); isDigest {
		i, err := v.Open(ctx, ref)
		if err != nil {
			return origin.Digest{}, err
		}
		return i.Map.Digest(), nil
	}
	_, err = v.retry(ctx, func(l List) error {
		d, err = v.findName(ctx, l, ref)
		return err
	})
	return d, err
}

func (v *View) findName(ctx context.Context, l List, name string) (origin.Digest, error) {
	if err := catalog.CheckName(name); err != nil {
		return origin.Digest{}, err
	}
	for _, g := range l.Readable() {
		d, err := catalog.Get(ctx, v.origin.Generation(g), catalog.NameKey(name))
		if !errors.Is(err, chunk.ErrNotFound) {
			return d, err
		}
	}
	return origin.Digest{}, chunk.ErrNotFound
}

// Open reads and checks the block map that ref means, out of the newest
// generation that has it; see catalog.Open. One that only an expired generation
// has raises an alarm.
func (v *View) Open(ctx context.Context, ref string) (*Image, error) {
	i, err := v.open(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return i, nil
}

func (v *View) open(ctx context.Context, ref string) (*Image, error) {
	var m *blockmap.Map
	var g origin.GenerationID
	l, err := v.retry(ctx, func(l List) (err error) {
		if _, isDigest := catalog.ParseRef(ref); isDigest {
			m, g, err = v.openDigest(ctx, l, ref)
			return err
		}
		d, err := v.findName(ctx, l, ref)
		if err == nil {
			m, g, err = v.load(ctx, l, d)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return v.image(ctx, m, g, l), nil
}

// openDigest opens what a digest means in the newest generation that has it.
func (v *View) openDigest(ctx context.Context, l List, ref string) (*blockmap.Map, origin.GenerationID, error) {
	missing := chunk.ErrNotFound
	for _, g := range l.Readable() {
		m, err := catalog.Open(ctx, v.origin.Generation(g), ref)
		if !errors.Is(err, chunk.ErrNotFound) {
			return m, g, err
		}
		missing = err
	}
	return nil, 0, missing
}

// load reads a block map out of the newest generation that has it.
func (v *View) load(ctx context.Context, l List, d origin.Digest) (*blockmap.Map, origin.GenerationID, error) {
	for _, g := range l.Readable() {
		m, err := catalog.Load(ctx, v.origin.Generation(g), d)
		if !errors.Is(err, chunk.ErrNotFound) {
			return m, g, err
		}
	}
	return nil, 0, fmt.Errorf("block map %v: %w", d, chunk.ErrNotFound)
}

// Attach is Open for a reader that stays: the image is marked as in use before
// its place is settled, so that it is kept while Image.Keep marks it anew. Where
// the mark cannot be written, the reader is told to the log and not kept.
func (v *View) Attach(ctx context.Context, ref string) (*Image, error) {
	return v.claim(ctx, ref, func(d origin.Digest) error { return v.mark(ctx, d) })
}

// mark marks an image, if that can be done.
func (v *View) mark(ctx context.Context, d origin.Digest) error {
	if err := Mark(ctx, v.origin, d, v.opt.Now()); err != nil {
		v.opt.Logger.Warn("image is not marked as in use", "image", d, "err", err)
	}
	return ctx.Err()
}

// OpenMap opens the block map of that digest, out of the newest generation that has it,
// for who has found the digest just now: the states may be five seconds old. Who
// stays begins a Claim beside it, and then has Settle settle the image's place; the image may be read
// before that.
func (v *View) OpenMap(ctx context.Context, d origin.Digest) (*Image, error) {
	var m *blockmap.Map
	var g origin.GenerationID
	l, err := v.retryFrom(ctx, v.States, func(l List) (err error) {
		m, g, err = v.load(ctx, l, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("image %v: %w", d, err)
	}
	return v.image(ctx, m, g, l), nil
}

// Claim marks the image with that block map as in use, as Attach does, and returns the states
// as they are after that, for Settle.
func (v *View) Claim(ctx context.Context, d origin.Digest) (List, error) {
	err := v.mark(ctx, d)
	if err != nil {
		return nil, err
	}
	l, err := v.states(ctx)
	if err != nil {
		return nil, fmt.Errorf("image %v: %w", d, err)
	}
	return l, nil
}

// Settle makes sure that the image is read from a generation that can be read when the states
// are l, those of a Claim: one that had been closed before the image was claimed may not last.
// An image that no other has is chunk.ErrNotFound.
func (i *Image) Settle(ctx context.Context, l List) error {
	g := i.Generation()
	if l.State(g).Readable() {
		return nil
	}
	at, err := i.look(ctx, g)
	if err == nil && at == g { // looked for, and not found elsewhere
		l, err = i.view.States(ctx)
		if err == nil && !l.State(g).Readable() {
			err = chunk.ErrNotFound
		}
	}
	if err != nil {
		return fmt.Errorf("image %v: %w", i.Map.Digest(), err)
	}
	return nil
}

// Pin keeps the image that ref means until it is unpinned. A pin that is there
// already stays.
func (v *View) Pin(ctx context.Context, ref string) (*Image, error) {
	return v.claim(ctx, ref, func(d origin.Digest) error {
		return putPin(ctx, v.origin, Pin{Image: d, Time: stamp(v.opt.Now()), Who: v.opt.Who, Ref: ref})
	})
}

// claim opens an image, says by fn that it is wanted, and then makes sure that
// the generation it was found in had not been closed before that.
func (v *View) claim(ctx context.Context, ref string, fn func(d origin.Digest) error) (*Image, error) {
	for {
		i, err := v.Open(ctx, ref)
		if err != nil {
			return nil, err
		}
		if err := fn(i.Map.Digest()); err != nil {
			return nil, fmt.Errorf("image %q: %w", ref, err)
		}
		l, err := Load(ctx, v.origin)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", ref, err)
		}
		if l.State(i.Generation()).Readable() {
			return i, nil
		}
	}
}
