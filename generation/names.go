package generation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// A Named is where a name leads, and the generation that says so.
type Named struct {
	BlockMap   origin.Digest
	Generation origin.GenerationID
}

// Names returns the names that the generations of l up to state upTo have, with
// what the newest of them says. It reads old generations before new ones, as names
// are carried from those to these: so none is missed that is there all the time.
// Names whose pointers hold no digest, or are origin.ErrCorrupt, are returned as broken. It has at most
// atOnce requests under way.
func Names(ctx context.Context, o origin.Origin, l List, upTo State, atOnce int) (names map[string]Named, broken map[string]error, err error) {
	names, broken = make(map[string]Named), make(map[string]error)
	ids := l.newestFirst(upTo)
	slices.Reverse(ids)
	for _, g := range ids {
		if err := namesOf(ctx, o.Generation(g), g, atOnce, names, broken); err != nil {
			return nil, nil, fmt.Errorf("names of generation %v: %w", g, err)
		}
	}
	return names, broken, nil
}

// namesOf puts the names of a generation in the place of older ones.
func namesOf(ctx context.Context, store origin.Pointers, id origin.GenerationID, atOnce int, names map[string]Named, broken map[string]error) error {
	var keys []string
	err := store.ListPointers(ctx, catalog.NameKey(""), func(key string) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards names and broken
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, key := range keys {
		g.Go(func() error {
			d, err := catalog.Get(gctx, store, key)
			name := key[len(catalog.NameKey("")):]
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, chunk.ErrNotFound): // removed meanwhile, or only reserved
				return nil
			case errors.Is(err, catalog.ErrPointer), errors.Is(err, origin.ErrCorrupt):
				delete(names, name)
				broken[name] = err
				return nil
			case err != nil:
				return err
			}
			delete(broken, name)
			names[name] = Named{BlockMap: d, Generation: id}
			return nil
		})
	}
	return g.Wait()
}

// Names calls fn for each name of the origin, in the order of their bytes, with
// the block map that it leads to, until fn fails; that error is returned. Names
// that lead nowhere are passed over, and reported when fn has had the others.
func (v *View) Names(ctx context.Context, fn func(name string, blockMap origin.Digest) error) error {
	l, err := Load(ctx, v.origin)
	for err == nil {
		names, broken, err := Names(ctx, v.origin, l, StateExpired, DefaultCopies)
		if err != nil {
			return err
		}
		again, err := Load(ctx, v.origin)
		if err != nil {
			return err
		}
		if !slices.Equal(l, again) {
			l = again
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if err := fn(name, names[name].BlockMap); err != nil {
				return err
			}
		}
		return errors.Join(slices.Collect(maps.Values(broken))...)
	}
	return err
}

// Remove takes the name of an image away, in all generations that may be read or
// come to be. It begins with the oldest, so that a name which is being carried
// forward is gone where it comes from before it is looked for where it goes.
// A name that none has is chunk.ErrNotFound.
func (v *View) Remove(ctx context.Context, name string) error {
	if err := catalog.CheckName(name); err != nil {
		return err
	}
	found := false
	l, err := Load(ctx, v.origin)
	for err == nil {
		ids := l.newestFirst(StateDeleted)
		slices.Reverse(ids)
		for _, g := range ids {
			was, err := removeName(ctx, v.origin.Generation(g), name)
			if err != nil {
				return fmt.Errorf("image %q: %w", name, err)
			}
			found = found || was
		}
		var again List
		if again, err = Load(ctx, v.origin); err == nil && slices.Equal(l, again) {
			if !found {
				err = fmt.Errorf("image %q: %w", name, chunk.ErrNotFound)
			}
			return err
		}
		l = again
	}
	return err
}

// removeName removes a name from one generation, and reports whether it led
// anywhere.
func removeName(ctx context.Context, s origin.Pointers, name string) (found bool, err error) {
	for {
		old, err := s.GetPointer(ctx, catalog.NameKey(name))
		if errors.Is(err, chunk.ErrNotFound) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		err = s.SwapPointer(ctx, catalog.NameKey(name), old, nil)
		if err == nil {
			return !catalog.IsReserved(old), nil
		}
		if !errors.Is(err, origin.ErrConflict) {
			return found, err
		}
		if ctx.Err() != nil {
			return found, context.Cause(ctx)
		}
	}
}

// MaxChain bounds what Chain finds.
const MaxChain = 64

var errEnough = errors.New("enough was found")

// Chain returns the block maps that pointers give for the image with that chain
// ID, those of the newest generation first, at most MaxChain; none is
// chunk.ErrNotFound. They are one tree of files, by several publishers or for
// several sizes of disk, if the pointers tell the truth: whoever opens one
// compares its chain ID.
func (v *View) Chain(ctx context.Context, chain origin.Digest) ([]origin.Digest, error) {
	var found []origin.Digest
	_, err := v.retry(ctx, func(l List) error {
		found = nil
		for _, g := range l.Readable() {
			s := v.origin.Generation(g)
			err := s.ListPointers(ctx, catalog.ChainPrefix(chain), func(key string) error {
				d, err := catalog.Get(ctx, s, key)
				if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, catalog.ErrPointer) {
					return nil // a short cut that leads nowhere
				}
				if err != nil || slices.Contains(found, d) {
					return err
				}
				if found = append(found, d); len(found) == MaxChain {
					return errEnough
				}
				return nil
			})
			if errors.Is(err, errEnough) {
				return nil
			}
			if err != nil {
				return err
			}
		}
		if len(found) == 0 {
			return chunk.ErrNotFound
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("chain %v: %w", chain, err)
	}
	return found, nil
}
