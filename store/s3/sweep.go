package s3

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// tombstoneAge is how long a tombstone stays at least. On a server that removes on
// a condition, but looks at it a moment before, somebody who sets the pointer again
// just then would be too late; after this time hardly anybody does.
const tombstoneAge = 48 * time.Hour

// sweeps bounds the tombstones that are removed at one time.
const sweeps = 16

// sweep removes old tombstones of the origin's own pointers: those of a generation
// go with it, these would be there for ever. Each is removed on condition that it
// has not been replaced since it was looked at, so a value that somebody puts in
// its place meanwhile stays. Where the server cannot do that, all stay: any other
// way to remove one could take a pin or a mark with it that was just set.
func (o *Origin) sweep(ctx context.Context) error {
	var old []string
	err := o.list(ctx, o.root+place.Pointers+"/", func(page []entry) error {
		for _, e := range page {
			if e.size == place.TombstoneBytes {
				old = append(old, e.key)
			}
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	if can, err := o.removesOnCondition(ctx); err != nil || !can {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sweeps)
	for _, key := range old {
		g.Go(func() error { return o.bury(ctx, key) })
	}
	return g.Wait()
}

// bury removes what a key has if it is a tombstone, and old. What a list says of
// sizes proves nothing, so it is read.
func (o *Origin) bury(ctx context.Context, key string) error {
	c, err := o.readCell(ctx, key, place.TombstoneBytes)
	if errors.Is(err, origin.ErrCorrupt) {
		return nil // no tombstone, at least
	}
	if err != nil || c.value != nil || c.etag == "" || c.changed.IsZero() || time.Since(c.changed) < tombstoneAge {
		return err
	}
	err = o.do(ctx, 0, func(ctx context.Context) error { return o.remove(ctx, key, c.etag) })
	if errors.Is(err, errCondition) {
		return nil
	}
	return err
}

// removesOnCondition reports whether the server looks at the condition of a
// removal. It asks with an object that means nothing, under a condition that does
// not hold.
func (o *Origin) removesOnCondition(ctx context.Context) (bool, error) {
	key := o.root + place.Probe
	u := newUpload(key, []byte(place.VersionText), cacheNever)
	err := o.do(ctx, 0, func(ctx context.Context) error {
		_, err := o.put(ctx, u, condition{})
		return err
	})
	if err != nil {
		return false, err
	}
	err = o.do(ctx, 0, func(ctx context.Context) error { return o.remove(ctx, key, noETag) })
	if can := errors.Is(err, errCondition); can || isUnknown(err) {
		return can, o.removeKey(ctx, key)
	}
	return false, err // it is gone, or somebody else asked at the same time
}
