package seal

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/origin"
)

// RecipientKind is the kind of attachment that says for whom an image key is
// wrapped, to those alone who have that key.
const RecipientKind = "recipient"

const recipientLabel = "rivulet recipient v1"

// A Recipient is a Wrapper with a text that names it, from which it can be made
// again.
type Recipient interface {
	Wrapper
	fmt.Stringer
}

// recipientTag names a recipient of an image to whoever has the image's key, and
// tells others nothing.
func recipientTag(key ImageKey, r Recipient) [16]byte {
	mac := hmac.New(sha256.New, key[:])
	_, _ = io.WriteString(mac, recipientLabel+r.Kind()+"\x00"+r.String())
	return [16]byte(mac.Sum(nil))
}

// Grant wraps key, the image key of m, for those of recipients for whom it was
// not wrapped yet, and reports how many these were. What is wrapped already
// stays as it is.
func Grant(ctx context.Context, m *blockmap.Map, key ImageKey, recipients []Recipient, store origin.Attachments) (added int, err error) {
	granted := make(map[string]bool)
	err = store.ListAttachments(ctx, m.Digest(), RecipientKind, func(tag []byte) error {
		granted[string(tag)] = true
		return nil
	})
	for _, r := range recipients {
		if err != nil {
			break
		}
		if tag := recipientTag(key, r); !granted[string(tag[:])] {
			granted[string(tag[:])] = true
			err = grant(ctx, m, key, r, tag, store)
			added++
		}
	}
	if err != nil {
		return 0, fmt.Errorf("share %v: %w", m, err)
	}
	return added, nil
}

// grant attaches the wrapped key before the tag that says it is there.
func grant(ctx context.Context, m *blockmap.Map, key ImageKey, r Recipient, tag [16]byte, store origin.Attachments) error {
	wrapped, err := r.Wrap(ctx, key, AboutMap(m))
	if err == nil {
		err = store.Attach(ctx, m.Digest(), r.Kind(), wrapped)
	}
	if err == nil {
		err = store.Attach(ctx, m.Digest(), RecipientKind, tag[:])
	}
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
