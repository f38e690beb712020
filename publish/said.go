package publish

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

// said is what was said of a known image when it was asked for: signatures, wrapped
// keys, recipients. What is added goes wherever the image lies by now, since a
// collector may have carried it on.
type said struct {
	place origin.Origin
	kinds map[string][][]byte
}

var _ origin.Attachments = (*said)(nil)

// gather asks at once for all that a publisher wants to know of an image.
func (p *publisher) gather(ctx context.Context, store origin.Attachments, d origin.Digest) (*said, error) {
	kinds := []string{sign.Kind, seal.RecipientKind}
	for _, u := range p.opts.Unwrappers {
		kinds = append(kinds, u.Kind())
	}
	for _, r := range p.opts.Recipients {
		kinds = append(kinds, r.Kind())
	}
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	lists := make([][][]byte, len(kinds))
	g, gctx := errgroup.WithContext(ctx)
	for i, kind := range kinds {
		g.Go(func() error {
			return store.ListAttachments(gctx, d, kind, func(data []byte) error {
				if len(data) <= seal.MaxWrapBytes { // more is none of these
					lists[i] = append(lists[i], data)
				}
				return nil
			})
		})
	}
	s := &said{place: p.place, kinds: make(map[string][][]byte, len(kinds))}
	err := g.Wait()
	for i, kind := range kinds {
		s.kinds[kind] = lists[i]
	}
	return s, err
}

// ListAttachments implements origin.Attachments, for what was gathered.
func (s *said) ListAttachments(_ context.Context, subject origin.Digest, kind string, fn func(data []byte) error) error {
	list, ok := s.kinds[kind]
	if !ok {
		return fmt.Errorf("attachments %s of %v: were not asked for", kind, subject)
	}
	for _, data := range list {
		if err := fn(data); err != nil {
			return err
		}
	}
	return nil
}

// Attach implements origin.Attachments.
func (s *said) Attach(ctx context.Context, subject origin.Digest, kind string, data []byte) error {
	return generation.Attach(ctx, s.place, subject, kind, data)
}
