package seal

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/origin"
)

// RecipientKind is the kind of attachment that says for whom an image key is
// wrapped, to those alone who have that key.
const RecipientKind = "recipient"

const recipientLabel = "rivulet recipient v2"

// A Recipient is a Wrapper with a text that names it, from which it can be made
// again.
type Recipient interface {
	Wrapper
	fmt.Stringer
}

// recipientTag says to whoever has the image's key that the wrapped key with the
// digest wrapped is for r, and tells others nothing of r. It begins with that
// digest, so that it counts only while the wrapped key is there.
func recipientTag(key ImageKey, r Recipient, wrapped origin.Digest) []byte {
	mac := hmac.New(sha256.New, key[:])
	_, _ = io.WriteString(mac, recipientLabel)
	_, _ = mac.Write(wrapped[:])
	_, _ = io.WriteString(mac, r.Kind()+"\x00"+r.String())
	return append(wrapped[:], mac.Sum(nil)[:16]...)
}

// Grant wraps key, the image key of m, for those of recipients for whom it is not
// wrapped yet, and reports how many these were. What is wrapped already stays as
// it is; a wrapped key that was lost is made anew.
func Grant(ctx context.Context, m *blockmap.Map, key ImageKey, recipients []Recipient, store origin.Attachments) (added int, err error) {
	g := granting{m, key, store, make(map[string]bool), make(map[string][]origin.Digest)}
	err = store.ListAttachments(ctx, m.Digest(), RecipientKind, func(tag []byte) error {
		g.tags[string(tag)] = true
		return nil
	})
	for _, r := range recipients {
		there := false
		if err == nil {
			there, err = g.has(ctx, r)
		}
		if err == nil && !there {
			err = g.grant(ctx, r)
			added++
		}
	}
	if err != nil {
		return 0, fmt.Errorf("share %v: %w", m, err)
	}
	return added, nil
}

// A granting is one call of Grant.
type granting struct {
	m     *blockmap.Map
	key   ImageKey
	store origin.Attachments
	tags  map[string]bool
	wraps map[string][]origin.Digest // of wrapped keys, by kind, as far as they were listed
}

// has reports whether there is a wrapped key for r.
func (g *granting) has(ctx context.Context, r Recipient) (bool, error) {
	list, listed := g.wraps[r.Kind()]
	if !listed {
		err := g.store.ListAttachments(ctx, g.m.Digest(), r.Kind(), func(wrapped []byte) error {
			list = append(list, origin.Sum(wrapped))
			return nil
		})
		if err != nil {
			return false, err
		}
		g.wraps[r.Kind()] = list
	}
	return slices.ContainsFunc(list, func(d origin.Digest) bool {
		return g.tags[string(recipientTag(g.key, r, d))]
	}), nil
}

// grant attaches the wrapped key, and the tag that says it is there: of which one alone counts for
// nothing.
func (g *granting) grant(ctx context.Context, r Recipient) error {
	wrapped, err := r.Wrap(ctx, g.key, AboutMap(g.m))
	if err != nil {
		return err
	}
	d := origin.Sum(wrapped)
	tag := recipientTag(g.key, r, d)
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() error { return g.store.Attach(bothCtx, g.m.Digest(), r.Kind(), wrapped) })
	both.Go(func() error { return g.store.Attach(bothCtx, g.m.Digest(), RecipientKind, tag) })
	err = both.Wait()
	g.tags[string(tag)] = true
	g.wraps[r.Kind()] = append(g.wraps[r.Kind()], d)
	return err
}

// UnlockKey is UnlockFor that also returns the image key, for Grant. Of a map
// that is not locked it is zeros.
func UnlockKey(ctx context.Context, m *blockmap.Map, store origin.Attachments, unwrappers ...Unwrapper) (*blockmap.Map, ImageKey, error) {
	var key ImageKey
	keeping := make([]Unwrapper, len(unwrappers))
	for i, u := range unwrappers {
		keeping[i] = keeper{u, &key}
	}
	open, err := UnlockFor(ctx, m, store, keeping...)
	if err != nil {
		return nil, ImageKey{}, err
	}
	return open, key, nil
}

// A keeper remembers the key that was unwrapped last: the one that opens the map,
// if any does.
type keeper struct {
	Unwrapper
	last *ImageKey
}

func (k keeper) Unwrap(ctx context.Context, data []byte, about About) (ImageKey, error) {
	key, err := k.Unwrapper.Unwrap(ctx, data, about)
	*k.last = key
	return key, err
}
