package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/origin"
)

// MaxWrapBytes bounds a wrapped image key.
const MaxWrapBytes = 64 << 10

// An About says what an image key opens. Wrappers bind to it what they can.
type About struct {
	Map    origin.Digest // the locked block map
	Source origin.Digest // manifest of the image that the disk was made from
}

// AboutMap returns what the image key of m opens.
func AboutMap(m *blockmap.Map) About {
	return About{Map: m.Digest(), Source: m.Info().Source}
}

// A Wrapper makes an image key readable for one recipient. Any number of calls
// may run at once. seal/wraptest has the suite of Wrappers and Unwrappers.
type Wrapper interface {
	// Kind names the form of what Wrap returns: the kind of attachment of the
	// block map that it is stored as. It never changes.
	Kind() string
	// Wrap returns key, wrapped for the recipient: at most MaxWrapBytes, the
	// caller's. Two calls return different bytes. No error text has the key.
	Wrap(ctx context.Context, key ImageKey, about About) ([]byte, error)
}

// An Unwrapper finds image keys that were wrapped for its owner. Any number of
// calls may run at once.
type Unwrapper interface {
	// Kind names the form of what Unwrap reads.
	Kind() string
	// Unwrap returns the image key in wrapped. ErrNotRecipient says that it is
	// wrapped for somebody else; every other error that it may be for this
	// owner and cannot be read now, or ever. The key is not checked: whoever
	// may write to a store can wrap any key for a recipient. data is at most
	// MaxWrapBytes long and is not kept.
	Unwrap(ctx context.Context, data []byte, about About) (ImageKey, error)
}

// ErrNotRecipient is returned (wrapped) by Unwrap for a key that is wrapped for
// somebody else, and by UnlockFor if all of them are.
var ErrNotRecipient = errors.New("wrapped for somebody else")

// UnlockFor returns a view of m that is unlocked by the first of the keys
// wrapped for it in store that one of unwrappers can read and that opens it. A
// map that is not locked is returned as it is.
//
// If no key opens the map, the error tells why those failed that were not for
// somebody else; if all were, or there is none, it is ErrNotRecipient.
func UnlockFor(ctx context.Context, m *blockmap.Map, store origin.Attachments, unwrappers ...Unwrapper) (*blockmap.Map, error) {
	if !m.Locked() {
		return m, nil
	}
	t := &unlocking{m: m, about: AboutMap(m)}
	for _, u := range unwrappers {
		err := store.ListAttachments(ctx, m.Digest(), u.Kind(), func(data []byte) error { return t.try(ctx, u, data) })
		if t.open != nil {
			return t.open, nil
		}
		if err != nil {
			return nil, fmt.Errorf("unlock %v: %w", m, err)
		}
	}
	if len(t.failed) > 0 {
		return nil, fmt.Errorf("unlock %v: %w", m, errors.Join(t.failed...))
	}
	return nil, fmt.Errorf("unlock %v: %d wrapped keys tried: %w", m, t.tried, ErrNotRecipient)
}

// maxFailures bounds the failures that UnlockFor reports.
const maxFailures = 4

// An unlocking is one call of UnlockFor.
type unlocking struct {
	m      *blockmap.Map
	about  About
	open   *blockmap.Map // once a key opened m
	tried  int
	failed []error
}

var errUnlocked = errors.New("unlocked")

func (t *unlocking) try(ctx context.Context, u Unwrapper, data []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.tried++
	err := t.key(ctx, u, data)
	switch {
	case t.open != nil:
		return errUnlocked
	case errors.Is(err, ErrNotRecipient), len(t.failed) >= maxFailures:
		return nil
	}
	t.failed = append(t.failed, err)
	return nil
}

func (t *unlocking) key(ctx context.Context, u Unwrapper, data []byte) error {
	if len(data) > MaxWrapBytes {
		return fmt.Errorf("wrapped key of %d bytes: at most %d", len(data), MaxWrapBytes)
	}
	key, err := u.Unwrap(ctx, data, t.about)
	if err != nil {
		return err
	}
	t.open, err = Unlock(t.m, key)
	return err
}
