package gc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
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
	broken map[string]error // names whose pointers hold no digest
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
	if w.names, w.broken, err = generation.Names(ctx, c.Origin, l, upTo); err != nil {
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

// sorted returns the images in an order that is always the same.
func (w *wanted) sorted() []origin.Digest {
	return slices.SortedFunc(maps.Keys(w.images), func(a, b origin.Digest) int { return slices.Compare(a[:], b[:]) })
}

// carry copies everything that is wanted to the active generation, unless it is
// there. An image that cannot be carried hinders no other, but is an error in
// the end, so that nothing is deleted.
func (c *Collector) carry(ctx context.Context, r *Report) error {
	w, err := c.scan(ctx, generation.StateExpired)
	if err != nil {
		return err
	}
	r.Images, r.Active = len(w.images), w.list.Active()
	if len(w.list.Readable()) == 1 {
		return nil
	}
	var faults []error
	for _, d := range w.sorted() {
		if err := c.carryImage(ctx, w, d, r); err != nil {
			faults = append(faults, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return errors.Join(faults...)
}

// carryImage carries an image and its names.
func (c *Collector) carryImage(ctx context.Context, w *wanted, d origin.Digest, r *Report) error {
	active := w.list.Active()
	holders, err := c.holders(ctx, w.list, d)
	if errors.Is(err, chunk.ErrNotFound) {
		if i := w.images[d]; len(i.Names) > 0 || i.Pinned { // a mark may be of one that was gone when it came
			r.Lost = append(r.Lost, d.String())
			c.log().Error("an image is wanted and in no generation", "image", d, "names", i.Names, "pinned", i.Pinned)
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, from := range holders { // chunks are copied from the first; each may have attachments of its own
		n, err := r.forwarder.Forward(ctx, d, from, active)
		r.Copied += n
		if err != nil {
			return err
		}
	}
	if len(holders) > 0 {
		r.Carried++
	}
	for _, name := range w.images[d].Names {
		if g := w.names[name].Generation; g != active {
			if err := r.forwarder.ForwardName(ctx, name, g, active); err != nil {
				return err
			}
		}
	}
	return nil
}

// holders returns the generations other than the active one that have image d,
// newest first. chunk.ErrNotFound: none has, nor has the active one.
func (c *Collector) holders(ctx context.Context, l generation.List, d origin.Digest) ([]origin.GenerationID, error) {
	var holders []origin.GenerationID
	found := false
	for _, g := range l.Readable() {
		has, err := c.has(ctx, g, d)
		if err != nil {
			return nil, err
		}
		if has && g != l.Active() {
			holders = append(holders, g)
		}
		found = found || has
	}
	if !found {
		return nil, fmt.Errorf("image %v: %w", d, chunk.ErrNotFound)
	}
	return holders, nil
}

// has reports whether a generation has an image: its block map, and so all that
// it needs.
func (c *Collector) has(ctx context.Context, g origin.GenerationID, d origin.Digest) (bool, error) {
	_, err := c.Origin.Generation(g).GetObject(ctx, d, catalog.MaxBlockMapBytes)
	if errors.Is(err, chunk.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("generation %v: %w", g, err)
	}
	return true, nil
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
