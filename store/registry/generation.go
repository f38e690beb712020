package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// ListGenerations implements [origin.Origin].
func (o *Origin) ListGenerations(ctx context.Context, fn func(id origin.GenerationID) error) error {
	seen := make(map[origin.GenerationID]bool)
	err := o.client.tags(ctx, tagPrefix+"g", func(tag string) {
		if id, ok := generationOf(tag); ok {
			seen[id] = true
		}
	})
	if err != nil {
		return fmt.Errorf("list generations: %w", err)
	}
	for id := range seen {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// DeleteGeneration implements [origin.Origin]: it deletes the generation's
// manifests, what leads to something before what it leads to. Space is given
// back when the registry collects the blobs that no manifest lists. The error
// is ErrNoDelete if the registry does not delete.
func (o *Origin) DeleteGeneration(ctx context.Context, id origin.GenerationID, tell func(removed int)) error {
	s := o.generation(id)
	var tags []string
	err := o.client.tags(ctx, s.prefix, func(tag string) { tags = append(tags, tag) })
	if err != nil {
		return fmt.Errorf("delete generation %v: %w", id, err)
	}
	var mu sync.Mutex
	removed := 0
	count := func() {
		mu.Lock()
		defer mu.Unlock()
		removed++
		tell(removed)
	}
	for _, kinds := range []string{"ph", "toaxk"} {
		var some []string
		for _, tag := range tags {
			if strings.IndexByte(kinds, tag[len(s.prefix)]) >= 0 {
				some = append(some, tag)
			}
		}
		err := each(ctx, len(some), func(ctx context.Context, i int) error { return s.deleteTag(ctx, some[i], count) })
		if err != nil {
			return fmt.Errorf("delete generation %v: %w", id, err)
		}
	}
	s.reset()
	return nil
}

// deleteTag deletes a manifest of the generation, and where the registry has no
// referrers API, the lists of referrers that lead from it and to it.
func (s *Store) deleteTag(ctx context.Context, tag string, count func()) error {
	kind := tag[len(s.prefix)]
	if s.client.api.Load() != referrersYes && (kind == 'o' || kind == 'a') {
		m, err := s.client.readManifest(ctx, tag, typeObject, typeBlockMap, typeSubject)
		if err == nil {
			_, err = s.client.deleteTagged(ctx, referrersTag(m.desc.Digest))
		}
		if err == nil {
			err = s.client.unlist(ctx, m)
		}
		if err != nil && !errors.Is(err, chunk.ErrNotFound) && !errors.Is(err, ErrArtifact) {
			return err
		}
	}
	there, err := s.client.deleteTagged(ctx, tag)
	if there {
		count()
	}
	return err
}
