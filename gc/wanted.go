package gc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A Want says why an image is wanted.
type Want struct {
	Names  []string   `json:"names,omitempty"` // that lead to it
	Pinned bool       `json:"pinned,omitempty"`
	Read   *time.Time `json:"read,omitempty"` // the day it was last marked as in use
}

// wanted is all that is wanted at a moment, and the states before it.
type wanted struct {
	list   generation.List
	names  map[string]generation.Named
	broken map[string]error // names whose pointers hold no digest, or are damaged
	images map[origin.Digest]*Want
}

func (w *wanted) want(d origin.Digest) *Want {
	if w.images[d] == nil {
		w.images[d] = &Want{}
	}
	return w.images[d]
}

// scan finds what is wanted: the states first, then the names of generations up
// to state upTo, then pins and marks.
func (c *Collector) scan(ctx context.Context, upTo generation.State) (*wanted, error) {
	if c.Policy.Recent < MinRecent {
		return nil, fmt.Errorf("images read within %v are to be kept; at least %v are needed, as marks are written once a day", c.Policy.Recent, MinRecent)
	}
	l, err := generation.Load(ctx, c.Origin)
	if err != nil {
		return nil, err
	}
	w := &wanted{list: l, images: make(map[origin.Digest]*Want)}
	if w.names, w.broken, err = generation.Names(ctx, c.Origin, l, upTo, c.copies()); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(w.names)) {
		i := w.want(w.names[name].BlockMap)
		i.Names = append(i.Names, name)
	}
	pins, err := generation.Pins(ctx, c.Origin)
	if err != nil {
		return nil, err
	}
	for _, p := range pins {
		w.want(p.Image).Pinned = true
	}
	now := c.now()
	err = generation.Marks(ctx, c.Origin, now, func(d origin.Digest, of time.Time) error {
		if now.Sub(of) <= c.Policy.Recent {
			w.want(d).Read = &of
		}
		return nil
	})
	return w, err
}

// damaged returns an error if a name is damaged: whatever it led to may be wanted,
// so nothing can go.
func (w *wanted) damaged() error {
	for _, name := range slices.Sorted(maps.Keys(w.broken)) {
		if err := w.broken[name]; errors.Is(err, origin.ErrCorrupt) {
			return fmt.Errorf("nothing is deleted while a name is damaged; publish it anew once its pointer is removed: %w", err)
		}
	}
	return nil
}

// sorted returns the images in an order that is always the same.
func (w *wanted) sorted() []origin.Digest {
	return slices.SortedFunc(maps.Keys(w.images), func(a, b origin.Digest) int { return slices.Compare(a[:], b[:]) })
}

// carry copies everything that is wanted to the active generation, unless it is
// there, and returns the states from before that. An image that cannot be carried
// hinders no other, but is an error in the end, so that nothing is deleted.
func (c *Collector) carry(ctx context.Context, r *Report) (generation.List, error) {
	w, err := c.scan(ctx, generation.StateExpired)
	if err != nil {
		return nil, err
	}
	r.Images, r.Active = len(w.images), w.list.Active()
	if len(w.list.Readable()) == 1 {
		return w.list, nil
	}
	held, err := c.held(ctx, w.list.Readable())
	if err != nil {
		return nil, err
	}
	f := c.forwarder()
	var mu sync.Mutex // guards faults and r
	var faults []error
	var g errgroup.Group
	g.SetLimit(min(imagesAtOnce, c.copies()))
	for _, d := range w.sorted() {
		g.Go(func() error {
			n, err := c.carryImage(ctx, w, held, d, f)
			mu.Lock()
			defer mu.Unlock()
			r.note(w.images[d], d, n, err)
			if err != nil && !errors.Is(err, errLost) {
				faults = append(faults, err)
			}
			return nil
		})
	}
	_ = g.Wait() // faults has them
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return w.list, errors.Join(append(faults, w.damaged())...)
}

// imagesAtOnce is how many images are looked after at one time; each may have
// many chunks under way.
const imagesAtOnce = 4

// errLost is the error of an image that is wanted and in no generation.
var errLost = errors.New("the image is in no generation")

// note reports what became of an image: how many chunks were copied, or -1 if it
// is in the active generation alone.
func (r *Report) note(i *Want, d origin.Digest, copied int, err error) {
	r.Copied += max(0, copied)
	switch {
	case errors.Is(err, errLost):
		if len(i.Names) > 0 || i.Pinned { // a mark may be of one that was gone when it came
			r.Lost = append(r.Lost, d.String())
		}
	case err == nil && copied >= 0:
		r.Carried++
	}
}

// carryImage carries an image and its names out of all generations but the
// active one, and returns how many chunks were copied for that; -1 if it is in no
// other. Chunks are copied from the first; each may have attachments of its own.
func (c *Collector) carryImage(ctx context.Context, w *wanted, held holdings, d origin.Digest, f *generation.Forwarder) (copied int, err error) {
	active, found := w.list.Active(), false
	copied = -1
	for _, g := range w.list.Readable() {
		if _, has := held[g][d]; !has {
			continue
		}
		if found = true; g == active {
			continue
		}
		n, err := f.Forward(ctx, d, g, active)
		if copied = max(0, copied) + n; err != nil {
			return copied, err
		}
	}
	if !found {
		return 0, errLost
	}
	for _, name := range w.images[d].Names {
		if g := w.names[name].Generation; g != active {
			if err := f.ForwardName(ctx, name, g, active); err != nil {
				return copied, err
			}
		}
	}
	return copied, nil
}

// holdings are the objects of generations, with their sizes in bytes. A
// generation that has an image's block map has all that the image needs.
type holdings map[origin.GenerationID]map[origin.Digest]int64

// held lists the objects of generations, given the newest first; it begins with
// the oldest, as images go from those to newer ones.
func (c *Collector) held(ctx context.Context, ids []origin.GenerationID) (holdings, error) {
	h := make(holdings, len(ids))
	for _, g := range slices.Backward(ids) {
		h[g] = make(map[origin.Digest]int64)
		err := c.Origin.Generation(g).ListObjects(ctx, func(d origin.Digest, size int64) error {
			h[g][d] = size
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("generation %v: %w", g, err)
		}
	}
	return h, nil
}

// maps calls fn for each block map that lies in a generation.
func (c *Collector) maps(ctx context.Context, g origin.GenerationID, fn func(m *blockmap.Map)) error {
	store := c.Origin.Generation(g)
	return store.ListObjects(ctx, func(d origin.Digest, _ int64) error {
		b, err := store.GetObject(ctx, d, catalog.MaxBlockMapBytes)
		if err != nil {
			return unlessMissing(err)
		}
		if m, err := blockmap.Parse(b); err == nil {
			fn(m)
		}
		return nil
	})
}
