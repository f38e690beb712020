package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// ListGenerations implements [origin.Origin].
func (o *Origin) ListGenerations(ctx context.Context, fn func(id origin.GenerationID) error) error {
	prefix := o.root + place.Generations + "/"
	folders, _, err := o.page(ctx, prefix, "", true)
	if err != nil {
		return fmt.Errorf("list generations: %w", err)
	}
	for _, f := range folders {
		name, isFolder := strings.CutSuffix(strings.TrimPrefix(f.key, prefix), "/")
		id, err := origin.ParseGenerationID(name)
		if !isFolder || err != nil {
			continue
		}
		if err := fn(id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// DeleteGeneration implements [origin.Origin]. Pointers go first, so that no
// image is found whose chunks are gone. At the end it sweeps the origin.
func (o *Origin) DeleteGeneration(ctx context.Context, id origin.GenerationID, tell func(removed int)) error {
	root, removed := o.generation(id).root, 0
	for _, prefix := range []string{root + place.Pointers + "/", root} {
		err := o.list(ctx, prefix, func(page []entry) error {
			if len(page) == 0 {
				return nil
			}
			err := o.do(ctx, 0, func(ctx context.Context) error { return o.removeAll(ctx, page) })
			if err == nil {
				removed += len(page)
				tell(removed)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("delete generation %v: %w", id, err)
		}
	}
	if s, ok := o.stores.LoadAndDelete(id); ok && s.(*Store).ahead != nil {
		s.(*Store).ahead.Close()
	}
	if err := o.sweep(ctx); err != nil { // they do no harm
		o.log.Warn("old tombstones are not removed", "err", err)
	}
	return ctx.Err()
}

// CopyChunk implements [origin.Origin]: the server copies.
func (o *Origin) CopyChunk(ctx context.Context, id chunk.ID, from, to origin.GenerationID) (bool, error) {
	added, err := o.copyChunk(ctx, o.generation(from).chunkKey(id), o.generation(to).chunkKey(id))
	if err != nil {
		return false, fmt.Errorf("copy chunk %v: %w", id, err)
	}
	return added, nil
}

func (o *Origin) copyChunk(ctx context.Context, from, to string) (added bool, err error) {
	var want, have minio.ObjectInfo
	var haveErr error
	g, both := errgroup.WithContext(ctx)
	g.Go(func() (err error) { want, err = o.stat(both, from); return err })
	g.Go(func() error { have, haveErr = o.stat(both, to); return nil })
	if err := g.Wait(); err != nil {
		return false, err
	}
	if haveErr == nil && have.Size == want.Size && have.ChecksumSHA256 == want.ChecksumSHA256 {
		return false, nil
	}
	if haveErr != nil && !errors.Is(haveErr, chunk.ErrNotFound) {
		return false, haveErr
	}
	err = o.do(ctx, want.Size, func(ctx context.Context) error { return o.copy(ctx, from, to) })
	return err == nil, err
}
