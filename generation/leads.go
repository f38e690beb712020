package generation

import (
	"context"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// Leads returns the block map to which the digest of an image or a disk leads in the newest
// generation that says so, and reads nothing of it: whoever opens it compares its Info. So
// it takes one round trip where the states have been read before, as the newest
// generation of then is asked beside the states. Where none says, the error is
// chunk.ErrNotFound.
func (v *View) Leads(ctx context.Context, d origin.Digest) (to origin.Digest, err error) {
	key := catalog.DigestKey(d)
	early := v.getEarly(ctx, key)
	defer early.end()
	_, err = v.retryFrom(ctx, v.States, func(l List) error {
		for _, g := range l.Readable() {
			to, err = early.get(ctx, v, g, key)
			if !errors.Is(err, chunk.ErrNotFound) {
				return err
			}
		}
		return chunk.ErrNotFound
	})
	if err != nil {
		return origin.Digest{}, fmt.Errorf("digest %v: %w", d, err)
	}
	return to, nil
}

// An earlyGet is a pointer that is read before it is known which generation is the newest: as
// if that were the one of before.
type earlyGet struct {
	generation origin.GenerationID // 0: none was known, or it was used
	cancel     context.CancelFunc
	done       chan struct{} // closed when what follows is set
	to         origin.Digest
	err        error
}

func (v *View) getEarly(ctx context.Context, key string) *earlyGet {
	v.mu.Lock()
	seen := v.seen
	v.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	e := &earlyGet{cancel: cancel, done: make(chan struct{})}
	readable := seen.Readable()
	if len(readable) == 0 {
		close(e.done)
		return e
	}
	e.generation = readable[0]
	go func() {
		defer close(e.done)
		e.to, e.err = catalog.Get(ctx, v.origin.Generation(readable[0]), key)
	}()
	return e
}

// get is catalog.Get out of g. What was read early counts once: what has been carried since must
// be found.
func (e *earlyGet) get(ctx context.Context, v *View, g origin.GenerationID, key string) (origin.Digest, error) {
	if g != e.generation {
		return catalog.Get(ctx, v.origin.Generation(g), key)
	}
	e.generation = 0
	<-e.done
	return e.to, e.err
}

func (e *earlyGet) end() {
	e.cancel()
	<-e.done
}
