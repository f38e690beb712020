package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

// A Reader is who reads images: what opens them for it, and whom it believes.
type Reader struct {
	// Identity returns what opens locked images. It is asked when there is one.
	Identity func(context.Context) ([]seal.Unwrapper, error)
	// Required are the publishers, one of whom must have signed; none: anybody.
	Required []sign.PublicKey
	// Spellings returns what else an image may be called; nil: nothing.
	Spellings func(ref string) []string
}

// An Image is an image that can be read: found, vouched for as far as was asked,
// and unlocked.
type Image struct {
	*generation.Image               // its Map may be locked
	Unlocked          *blockmap.Map // view of the same map whose keys are readable

	attachments map[string][]byte // those by which it was opened; see Kept
}

// Find finds the image that ref means, and checks that it is signed as was asked.
// A reader that stays says so, to have it kept.
func (r *Reader) Find(ctx context.Context, v *generation.View, ref string, stays bool) (*generation.Image, error) {
	i, err := r.find(ctx, v, ref, stays)
	if err != nil {
		return nil, err
	}
	if err := r.vouched(ctx, i.Map, v.Origin().Generation(i.Generation())); err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return i, nil
}

func (r *Reader) find(ctx context.Context, v *generation.View, ref string, stays bool) (*generation.Image, error) {
	open := v.Open
	if stays {
		open = v.Attach
	}
	return Lookup(ctx, open, ref, r.Spellings)
}

// Open finds an image and unlocks it.
func (r *Reader) Open(ctx context.Context, v *generation.View, ref string, stays bool) (*Image, error) {
	i, err := r.find(ctx, v, ref, stays)
	if err != nil {
		return nil, err
	}
	return r.opened(ctx, i, v.Origin().Generation(i.Generation()), ref)
}

// opened unlocks i by the attachments at.
func (r *Reader) opened(ctx context.Context, i *generation.Image, at origin.Attachments, ref string) (*Image, error) {
	t := &tracked{at, make(map[string][]byte)}
	m, err := r.read(ctx, i.Map, t)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return &Image{i, m, t.found}, nil
}

// attach is Open for who has found the digest of the block map just now, and claims it
// beside. What unlocks the image is asked for beside its block map; found is told of it before
// it is unlocked.
func (r *Reader) attach(ctx context.Context, v *generation.View, d origin.Digest, found func(*generation.Image)) (*Image, error) {
	ahead, err := r.attachmentsAhead(ctx, v, d)
	if err != nil {
		return nil, err
	}
	defer ahead.close()
	i, err := v.OpenMap(ctx, d)
	if err != nil {
		return nil, err
	}
	found(i)
	return r.opened(ctx, i, ahead.at(v, i.Generation()), d.String())
}

// read returns m unlocked, by the attachments at, if it is signed as was asked.
func (r *Reader) read(ctx context.Context, m *blockmap.Map, at origin.Attachments) (*blockmap.Map, error) {
	if err := r.vouched(ctx, m, at); err != nil {
		return nil, err
	}
	m, err := r.unlock(ctx, m, at)
	if err == nil {
		err = seal.CheckReadable(m)
	}
	return m, err
}

func (r *Reader) vouched(ctx context.Context, m *blockmap.Map, at origin.Attachments) error {
	if len(r.Required) == 0 {
		return nil
	}
	_, err := sign.Require(ctx, m, at, r.Required...)
	return err
}

// Unlock returns the block map of i, unlocked by the reader's identity if it is
// locked.
func (r *Reader) Unlock(ctx context.Context, v *generation.View, i *generation.Image) (*blockmap.Map, error) {
	return r.unlock(ctx, i.Map, v.Origin().Generation(i.Generation()))
}

func (r *Reader) unlock(ctx context.Context, m *blockmap.Map, at origin.Attachments) (*blockmap.Map, error) {
	if !m.Locked() {
		return m, nil
	}
	opens, err := r.Identity(ctx)
	if err != nil {
		return nil, err
	}
	return seal.UnlockFor(ctx, m, at, opens...)
}

// Lookup calls open with ref and then, while that is not found, with its other
// spellings.
func Lookup[T any](ctx context.Context, open func(context.Context, string) (T, error), ref string, spellings func(string) []string) (T, error) {
	i, err := open(ctx, ref)
	if err == nil || !errors.Is(err, chunk.ErrNotFound) || spellings == nil {
		return i, err
	}
	for _, other := range spellings(ref) {
		if i, otherErr := open(ctx, other); !errors.Is(otherErr, chunk.ErrNotFound) {
			return i, otherErr
		}
	}
	return i, err
}
