package domain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// A wrap is the key of a locked salt, wrapped for one publisher. Its pointer is
// kind, newline, recipient, newline, proof in hexadecimal, newline, and the
// wrapped key.
type wrap struct {
	kind, recipient string
	proof           string // by the salt, of kind and recipient
	data            []byte
}

// wrapOf returns the wrap for r, without proof and key.
func wrapOf(r seal.Recipient) *wrap { return &wrap{kind: r.Kind(), recipient: r.String()} }

const wrapLabel = "rivulet salt recipient v1" // of the proof

func (w *wrap) value() []byte {
	return append([]byte(w.kind+"\n"+w.recipient+"\n"+w.proof+"\n"), w.data...)
}

func parseWrap(value []byte) (*wrap, bool) {
	parts := bytes.SplitN(value, []byte("\n"), 4)
	if len(parts) != 4 {
		return nil, false
	}
	return &wrap{string(parts[0]), string(parts[1]), string(parts[2]), parts[3]}, true
}

// name is what the proof is of, and the pointer named after.
func (w *wrap) name() []byte { return []byte(w.kind + "\n" + w.recipient) }

// who is the last part of the name of a wrap's pointer.
func (w *wrap) who() string {
	sum := sha256.Sum256(w.name())
	return hex.EncodeToString(sum[:16])
}

func (w *wrap) proofBy(s *seal.Salt) string {
	proof := s.Vouch(wrapLabel, w.name())
	return hex.EncodeToString(proof[:])
}

// provedBy reports whether a holder of s has granted it to w's recipient.
func (w *wrap) provedBy(s *seal.Salt) bool {
	proof, err := hex.DecodeString(w.proof)
	return err == nil && s.Vouched(wrapLabel, w.name(), proof)
}

// about is what a wrapped key of this locked salt opens.
func about(locked []byte) seal.About {
	d := origin.Sum(locked)
	return seal.About{Map: d, Source: d}
}

// open opens the locked salt by the key that w has for one of ids.
func (w *wrap) open(ctx context.Context, ids []seal.Unwrapper, locked []byte, id blockmap.SaltID) (*openedSalt, error) {
	err := seal.ErrNotRecipient
	for _, u := range ids {
		if u.Kind() != w.kind {
			continue
		}
		var key seal.ImageKey
		if key, err = u.Unwrap(ctx, w.data, about(locked)); err != nil {
			continue
		}
		var s *seal.Salt
		if s, err = seal.OpenSalt(locked, key, id); err == nil {
			return &openedSalt{s, locked, key}, nil
		}
	}
	return nil, err
}

// askAtOnce bounds the pointers of a domain that are asked for at one time.
const askAtOnce = 16

// getAll returns the values of pointers, nil for those that are not there.
func getAll(ctx context.Context, o origin.Pointers, names []string) ([][]byte, error) {
	values := make([][]byte, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askAtOnce)
	for i, name := range names {
		g.Go(func() (err error) {
			values[i], err = o.GetPointer(ctx, name)
			if errors.Is(err, chunk.ErrNotFound) {
				return nil
			}
			return err
		})
	}
	return values, g.Wait()
}

func parseWraps(values [][]byte) (list []*wrap) {
	for _, value := range values {
		if w, ok := parseWrap(value); ok {
			list = append(list, w)
		}
	}
	return list
}

// wraps calls fn for each wrapped key of a salt. What is none is passed over.
func wraps(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID, fn func(*wrap) error) error {
	var names []string
	err := o.ListPointers(ctx, saltPointer(name, id)+"/", func(key string) error {
		names = append(names, key)
		return nil
	})
	if err != nil {
		return err
	}
	for some := range slices.Chunk(names, askAtOnce) {
		values, err := getAll(ctx, o, some)
		if err != nil {
			return err
		}
		for _, w := range parseWraps(values) {
			if err := fn(w); err != nil {
				return err
			}
		}
	}
	return nil
}

// Recipients returns the texts of those for whom the origin says that a salt is
// wrapped. Anybody may have written that; Granted is for those who act on it.
func Recipients(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID) ([]string, error) {
	var list []string
	err := wraps(ctx, o, name, id, func(w *wrap) error {
		list = append(list, w.recipient)
		return nil
	})
	slices.Sort(list)
	return list, err
}

// Granted returns the texts of those whom holders of s have granted it to, and of
// others that are written beside them: strangers.
func Granted(ctx context.Context, o origin.Pointers, s *seal.Salt) (granted, strangers []string, err error) {
	err = wraps(ctx, o, s.Domain(), s.ID(), func(w *wrap) error {
		if w.provedBy(s) {
			granted = append(granted, w.recipient)
		} else {
			strangers = append(strangers, w.recipient)
		}
		return nil
	})
	slices.Sort(granted)
	slices.Sort(strangers)
	return granted, strangers, err
}

// Grant makes the salts of a domain readable for to, with the help of one of ids
// that reads them: each that it reads, and at least present, the domain's salt.
func Grant(ctx context.Context, o origin.Pointers, present *seal.Salt, ids []seal.Unwrapper, to []seal.Recipient) error {
	list, err := Salts(ctx, o, present.Domain())
	if err != nil {
		return err
	}
	if !slices.Contains(list, present.ID()) {
		list = append(list, present.ID()) // and fail
	}
	for _, id := range list {
		opened, err := openSalt(ctx, o, present.Domain(), id, ids, nil)
		if id != present.ID() && (errors.Is(err, ErrGranted) || errors.Is(err, ErrFormat) || errors.Is(err, chunk.ErrNotFound)) {
			continue
		}
		if err == nil {
			err = opened.grant(ctx, o, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// grant wraps the key of the locked salt for each of to. One that a holder of the
// salt has granted already is left; one that somebody else wrote is replaced.
func (s *openedSalt) grant(ctx context.Context, o origin.Pointers, to []seal.Recipient) error {
	for _, r := range to {
		w := wrapOf(r)
		if strings.ContainsAny(w.recipient, "\r\n") {
			return fmt.Errorf("recipient %.40q: more than one line", w.recipient)
		}
		at := saltPointer(s.salt.Domain(), s.salt.ID()) + "/" + w.who()
		old, err := o.GetPointer(ctx, at)
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
		if there, ok := parseWrap(old); err == nil && ok && there.provedBy(s.salt) && string(there.name()) == string(w.name()) {
			continue
		}
		w.proof = w.proofBy(s.salt)
		if w.data, err = r.Wrap(ctx, s.key, about(s.locked)); err != nil {
			return err
		}
		if n := len(w.value()); n > origin.MaxPointerBytes {
			return fmt.Errorf("recipient %.40q: its wrapped key takes %d bytes, at most %d fit", w.recipient, n, origin.MaxPointerBytes)
		}
		if err := o.SwapPointer(ctx, at, old, w.value()); err != nil && !errors.Is(err, origin.ErrConflict) {
			return err
		}
	}
	return nil
}
