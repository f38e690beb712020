package host

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/sign"
)

// Bounds of what is read of an image's attachments before it is known which of them are
// wanted, of a kind: what lies beyond is read when it is asked for.
const (
	maxAhead      = 16
	maxAheadBytes = 256 << 10
)

// usualKind is the kind of wrapped keys that most images have, that of agewrap. Which
// identities the reader has is not asked before one is needed: it may take a passphrase.
const usualKind = "age"

// attachmentsAhead are the attachments of an image that open it, read while its block
// map is on its way.
type attachmentsAhead struct {
	image      origin.Digest
	generation origin.GenerationID
	cancel     context.CancelFunc
	running    sync.WaitGroup
	kinds      map[string]*aheadKind
}

// An aheadKind are the attachments of a kind.
type aheadKind struct {
	done chan struct{} // closed when what follows is set
	data [][]byte
	all  bool // there are no others
}

// attachmentsAhead begins to read the attachments by which r would open the image, out of
// the newest generation: there it is, or nothing is gained. The caller closes them.
func (r *Reader) attachmentsAhead(ctx context.Context, v *generation.View, image origin.Digest) (*attachmentsAhead, error) {
	states, err := v.States(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &attachmentsAhead{image: image, cancel: cancel, kinds: make(map[string]*aheadKind)}
	readable := states.Readable()
	if len(readable) == 0 {
		return a, nil
	}
	a.generation = readable[0]
	from := v.Origin().Generation(a.generation)
	kinds := []string{usualKind}
	if len(r.Required) > 0 {
		kinds = append(kinds, sign.Kind)
	}
	for _, kind := range kinds {
		k := &aheadKind{done: make(chan struct{})}
		a.kinds[kind] = k
		a.running.Go(func() {
			defer close(k.done)
			k.read(ctx, from, image, kind)
		})
	}
	return a, nil
}

var errEnough = errors.New("enough was read ahead")

func (k *aheadKind) read(ctx context.Context, from origin.Attachments, image origin.Digest, kind string) {
	bytesRead := 0
	err := from.ListAttachments(ctx, image, kind, func(data []byte) error {
		if bytesRead += len(data); len(k.data) == maxAhead || bytesRead > maxAheadBytes {
			return errEnough
		}
		k.data = append(k.data, bytes.Clone(data))
		return nil
	})
	k.all = err == nil
}

// close ends what is under way, and waits for it.
func (a *attachmentsAhead) close() {
	a.cancel()
	a.running.Wait()
}

// at returns the image's attachments in generation g.
func (a *attachmentsAhead) at(v *generation.View, g origin.GenerationID) origin.Attachments {
	there := v.Origin().Generation(g)
	if g != a.generation {
		return there
	}
	return &aheadOf{there, a}
}

type aheadOf struct {
	origin.Attachments
	ahead *attachmentsAhead
}

// ListAttachments implements [origin.Attachments]. If what was read ahead does not end the
// search, and is not all, it begins anew at the origin.
func (o *aheadOf) ListAttachments(ctx context.Context, image origin.Digest, kind string, fn func(data []byte) error) error {
	k := o.ahead.kinds[kind]
	if k == nil || image != o.ahead.image {
		return o.Attachments.ListAttachments(ctx, image, kind, fn)
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, data := range k.data {
		if err := fn(data); err != nil {
			return err
		}
	}
	if k.all && len(k.data) > 0 {
		return nil
	}
	return o.Attachments.ListAttachments(ctx, image, kind, fn)
}
