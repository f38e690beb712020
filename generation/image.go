package generation

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// An Image is a published image that a reader has found. As a chunk.Source and
// chunk.Prober it reads the image's chunks from the generation that has them, and
// follows when the image is carried to another: it looks again every
// Options.Look, and whenever a chunk is missing. It has nothing to close. Any
// number of calls may run at once.
type Image struct {
	Map *blockmap.Map

	view  *View
	at    atomic.Uint32 // generation that is read
	last  atomic.Int64  // when it was looked for, Unix nanoseconds of Options.Now
	token chan struct{} // holds one: whoever has it may look
}

var (
	_ chunk.Source     = (*Image)(nil)
	_ chunk.Prober     = (*Image)(nil)
	_ origin.Requester = (*Image)(nil)
)

// image returns the image of m that was found in g when the states were l.
func (v *View) image(ctx context.Context, m *blockmap.Map, g origin.GenerationID, l List) *Image {
	i := &Image{Map: m, view: v, token: make(chan struct{}, 1)}
	i.token <- struct{}{}
	i.at.Store(uint32(g))
	i.last.Store(v.opt.Now().UnixNano())
	i.noteState(ctx, g, l)
	return i
}

// Generation returns the generation that the image is read from at present.
func (i *Image) Generation() origin.GenerationID { return origin.GenerationID(i.at.Load()) }

// Store returns that generation's store.
func (i *Image) Store() origin.Store { return i.view.origin.Generation(i.Generation()) }

// Fetch implements [chunk.Source].
func (i *Image) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (n int, err error) {
	err = i.follow(ctx, func(s origin.Store) error {
		n, err = s.Fetch(ctx, id, dst, off)
		return err
	})
	return n, err
}

// Request implements [origin.Requester]. A request names one generation, so the
// chunk may not be found by it when the image has been carried to another: Fetch
// finds that out.
func (i *Image) Request(ctx context.Context, id chunk.ID) (r origin.Request, err error) {
	err = i.follow(ctx, func(s origin.Store) error {
		r, err = s.Request(ctx, id)
		return err
	})
	return r, err
}

// Stat implements [chunk.Prober].
func (i *Image) Stat(ctx context.Context, id chunk.ID) (size int64, err error) {
	err = i.follow(ctx, func(s origin.Store) error {
		size, err = s.Stat(ctx, id)
		return err
	})
	return size, err
}

// ListAttachments calls fn for each attachment of that kind that the image has;
// see origin.Attachments.
func (i *Image) ListAttachments(ctx context.Context, kind string, fn func(data []byte) error) error {
	for {
		g, found := i.Generation(), false
		err := i.view.origin.Generation(g).ListAttachments(ctx, i.Map.Digest(), kind, func(data []byte) error {
			found = true
			return fn(data)
		})
		if found || err != nil {
			return err
		}
		// None: or the image lies elsewhere by now.
		if h, err := i.look(ctx, g); h == g || err != nil {
			return err
		}
	}
}

// follow calls fn with the generation that has the image; with another one, if
// what fn asks for is missing there.
func (i *Image) follow(ctx context.Context, fn func(s origin.Store) error) error {
	g := i.Generation()
	now := i.view.opt.Now().UnixNano()
	if last := i.last.Load(); now-last >= int64(i.view.opt.Look) && i.last.CompareAndSwap(last, now) {
		if h, err := i.look(ctx, g); err == nil {
			g = h
		} else if ctx.Err() == nil {
			i.view.opt.Logger.Warn("cannot tell where the image is", "image", i.Map.Digest(), "err", err)
		}
	}
	for {
		err := fn(i.view.origin.Generation(g))
		if !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
		h, lookErr := i.look(ctx, g)
		if lookErr != nil {
			return errors.Join(err, lookErr)
		}
		if h == g {
			i.view.raise(ctx, i.Map.Digest(), g, ReasonMissing)
			return err
		}
		g = h
	}
}

// look finds the newest generation that has the image. seen is the one that the
// caller read: if another caller has found a better one since, that is it.
func (i *Image) look(ctx context.Context, seen origin.GenerationID) (origin.GenerationID, error) {
	select {
	case <-i.token:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { i.token <- struct{}{} }()
	at := i.Generation()
	if at != seen {
		return at, nil
	}
	var found origin.GenerationID
	l, err := i.view.retry(ctx, func(l List) (err error) {
		found, err = i.holder(ctx, l, at)
		return err
	})
	if errors.Is(err, chunk.ErrNotFound) {
		i.view.raise(ctx, i.Map.Digest(), at, ReasonGone)
	}
	if err != nil {
		return 0, err
	}
	i.at.Store(uint32(found))
	i.noteState(ctx, found, l)
	return found, nil
}

// holder returns the newest generation of l that has the image; at is known to
// have had it, and has it still while it is closed and looked through.
func (i *Image) holder(ctx context.Context, l List, at origin.GenerationID) (origin.GenerationID, error) {
	d := i.Map.Digest()
	for _, g := range l.Readable() {
		if g == at {
			return g, nil
		}
		_, err := i.view.origin.Generation(g).GetObject(ctx, d, catalog.MaxBlockMapBytes)
		if !errors.Is(err, chunk.ErrNotFound) {
			return g, err
		}
	}
	if l.State(at) == StateDeleted {
		return at, nil
	}
	return 0, fmt.Errorf("image %v: no generation has it: %w", d, chunk.ErrNotFound)
}

// noteState raises the alarm if the image is read from a generation that is
// expired, or closed since.
func (i *Image) noteState(ctx context.Context, g origin.GenerationID, l List) {
	if l.State(g) >= StateExpired {
		i.view.raise(ctx, i.Map.Digest(), g, ReasonExpired)
	}
}

// raise raises an alarm, once for an image, generation and reason.
func (v *View) raise(ctx context.Context, d origin.Digest, g origin.GenerationID, reason string) {
	a := Alarm{Time: stamp(v.opt.Now()), Who: v.opt.Who, Generation: g, Image: d.String(), Reason: reason}
	key := a.key() + reason
	v.mu.Lock()
	known := v.raised[key]
	v.raised[key] = true
	v.mu.Unlock()
	if known {
		return
	}
	v.opt.Logger.Error("garbage collection has to stop", "reason", reason, "image", d, "generation", g)
	if v.opt.OnAlarm != nil {
		v.opt.OnAlarm(a)
	}
	if err := Raise(ctx, v.origin, a); err != nil {
		v.opt.Logger.Warn("the alarm could not be kept at the origin", "err", err)
		v.mu.Lock()
		delete(v.raised, key) // the next read tries again
		v.mu.Unlock()
	}
}

// markEvery is how often Keep looks whether it is another day.
const markEvery = time.Hour

// Keep keeps the mark of an attached image up to date until ctx ends: it is
// written once a day. It is for a goroutine of the caller's.
func (i *Image) Keep(ctx context.Context) {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		if err := Mark(ctx, i.view.origin, i.Map.Digest(), i.view.opt.Now()); err != nil && ctx.Err() == nil {
			i.view.opt.Logger.Warn("image is not marked as in use", "image", i.Map.Digest(), "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
