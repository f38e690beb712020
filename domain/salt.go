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

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// A wrap is the key of a locked salt, wrapped for one publisher. Its pointer is
// kind, newline, recipient, newline, and the wrapped key.
type wrap struct {
	kind, recipient string
	data            []byte
}

func (w *wrap) value() []byte {
	return append([]byte(w.kind+"\n"+w.recipient+"\n"), w.data...)
}

func parseWrap(value []byte) (*wrap, bool) {
	kind, rest, ok := bytes.Cut(value, []byte("\n"))
	recipient, data, more := bytes.Cut(rest, []byte("\n"))
	return &wrap{string(kind), string(recipient), data}, ok && more
}

// who is the last part of the name of a wrap's pointer.
func (w *wrap) who() string {
	sum := sha256.Sum256([]byte(w.kind + "\n" + w.recipient))
	return fmt.Sprintf("%x", sum[:16])
}

// about is what a wrapped key of this locked salt opens.
func about(locked []byte) seal.About {
	d := origin.Sum(locked)
	return seal.About{Map: d, Source: d}
}

// Open returns the salt that publishers of a domain use now, read with one of
// ids, and the domain's state. The error is chunk.ErrNotFound if the origin has
// no such domain, and ErrGranted if none of ids opens the salt.
func Open(ctx context.Context, o origin.Pointers, name string, ids []seal.Unwrapper) (*seal.Salt, State, error) {
	state, err := Load(ctx, o, name)
	if err != nil {
		return nil, State{}, err
	}
	s, err := Salt(ctx, o, name, state.Salt, ids)
	if errors.Is(err, chunk.ErrNotFound) { // the state says that it is there
		err = fmt.Errorf("%w: %v", ErrFormat, err)
	}
	if err == nil && (s.Domain() != name || s.Epoch() != state.Epoch) {
		err = fmt.Errorf("%w %s: its salt is that of domain %s, epoch %d", ErrFormat, name, s.Domain(), s.Epoch())
	}
	return s, state, err
}

// Salt returns a salt of a domain by its ID; see Open.
func Salt(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID, ids []seal.Unwrapper) (*seal.Salt, error) {
	s, _, _, err := openSalt(ctx, o, name, id, ids)
	return s, err
}

// openSalt returns a salt, what it is locked as, and the key that opens it.
func openSalt(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID, ids []seal.Unwrapper) (*seal.Salt, []byte, seal.ImageKey, error) {
	what := fmt.Sprintf("salt domain %s, salt %x", name, id[:])
	locked, err := o.GetPointer(ctx, saltPointer(name, id))
	if err != nil {
		return nil, nil, seal.ImageKey{}, fmt.Errorf("%s: %w", what, err)
	}
	var failed []error
	var salt *seal.Salt
	var key seal.ImageKey
	err = wraps(ctx, o, name, id, func(w *wrap) error {
		s, k, err := unwrap(ctx, w, ids, locked, id)
		if err == nil {
			salt, key = s, k
			return errFound
		}
		if !errors.Is(err, seal.ErrNotRecipient) && len(failed) < 4 {
			failed = append(failed, err)
		}
		return nil
	})
	switch {
	case errors.Is(err, errFound):
		return salt, locked, key, nil
	case err != nil:
		return nil, nil, seal.ImageKey{}, fmt.Errorf("%s: %w", what, err)
	}
	return nil, nil, seal.ImageKey{}, fmt.Errorf("%s: %w", what, errors.Join(append([]error{ErrGranted}, failed...)...))
}

var errFound = errors.New("found")

// unwrap opens the locked salt by the key that w has for one of ids.
func unwrap(ctx context.Context, w *wrap, ids []seal.Unwrapper, locked []byte, id blockmap.SaltID) (*seal.Salt, seal.ImageKey, error) {
	err := error(seal.ErrNotRecipient)
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
			return s, key, nil
		}
	}
	return nil, seal.ImageKey{}, err
}

func saltPointer(name string, id blockmap.SaltID) string {
	return pointer(name, hex.EncodeToString(id[:]))
}

// wraps calls fn for each wrapped key of a salt.
func wraps(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID, fn func(*wrap) error) error {
	return o.ListPointers(ctx, saltPointer(name, id)+"/", func(key string) error {
		value, err := o.GetPointer(ctx, key)
		if errors.Is(err, chunk.ErrNotFound) {
			return nil // taken away meanwhile
		}
		if err != nil {
			return err
		}
		w, ok := parseWrap(value)
		if !ok {
			return fmt.Errorf("%w: pointer %s", ErrFormat, key)
		}
		return fn(w)
	})
}

// Recipients returns the texts of those for whom a salt is wrapped.
func Recipients(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID) ([]string, error) {
	var list []string
	err := wraps(ctx, o, name, id, func(w *wrap) error {
		list = append(list, w.recipient)
		return nil
	})
	slices.Sort(list)
	return list, err
}

// Salts returns the IDs of all salts of a domain, also of those that no epoch
// came to use.
func Salts(ctx context.Context, o origin.Pointers, name string) ([]blockmap.SaltID, error) {
	var list []blockmap.SaltID
	err := o.ListPointers(ctx, pointer(name)+"/", func(key string) error {
		if id, err := catalog.ParseSaltID(key[len(pointer(name))+1:]); err == nil {
			list = append(list, id)
		}
		return nil
	})
	return list, err
}

// grant wraps the key of a locked salt for each of to.
func grant(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID, locked []byte, key seal.ImageKey, to []seal.Recipient) error {
	for _, r := range to {
		w := &wrap{kind: r.Kind(), recipient: r.String()}
		if strings.ContainsAny(w.recipient, "\r\n") {
			return fmt.Errorf("recipient %.40q: more than one line", w.recipient)
		}
		at := saltPointer(name, id) + "/" + w.who()
		if _, err := o.GetPointer(ctx, at); !errors.Is(err, chunk.ErrNotFound) {
			if err != nil {
				return err
			}
			continue // granted already
		}
		var err error
		if w.data, err = r.Wrap(ctx, key, about(locked)); err != nil {
			return err
		}
		if n := len(w.value()); n > origin.MaxPointerBytes {
			return fmt.Errorf("recipient %.40q: its wrapped key takes %d bytes, at most %d fit", w.recipient, n, origin.MaxPointerBytes)
		}
		if err := o.SwapPointer(ctx, at, nil, w.value()); err != nil && !errors.Is(err, origin.ErrConflict) {
			return err
		}
	}
	return nil
}

// Create makes a domain with its first salt, for to. If somebody else made it
// first, that is origin.ErrConflict, and the domain is theirs.
func Create(ctx context.Context, o origin.Pointers, name string, c Coding, to []seal.Recipient) (*seal.Salt, State, error) {
	return begin(ctx, o, State{Name: name, Epoch: 1, Coding: c}, nil, to)
}

// Rotate begins a new epoch of a domain with a new salt for to, and returns it.
func Rotate(ctx context.Context, o origin.Pointers, name string, to []seal.Recipient) (*seal.Salt, State, error) {
	state, old, err := load(ctx, o, name)
	if err != nil {
		return nil, State{}, err
	}
	state.Epoch++
	return begin(ctx, o, state, old, to)
}

// SetCoding changes how a domain's chunks are coded from now on.
func SetCoding(ctx context.Context, o origin.Pointers, name string, c Coding) error {
	state, old, err := load(ctx, o, name)
	if err != nil {
		return err
	}
	state.Coding = c
	return o.SwapPointer(ctx, pointer(name), old, []byte(state.String()))
}

// begin makes a salt, and then the epoch that uses it. Of several that do so at
// once, one has the epoch, and what the others made is never used.
func begin(ctx context.Context, o origin.Pointers, state State, old []byte, to []seal.Recipient) (*seal.Salt, State, error) {
	s, err := seal.NewSalt(state.Name, state.Epoch)
	if err != nil {
		return nil, State{}, err
	}
	if state.Salt = s.ID(); len(to) == 0 {
		return nil, State{}, fmt.Errorf("salt domain %s: there is nobody to lock the salt for", state.Name)
	}
	locked, key := seal.LockSalt(s)
	err = o.SwapPointer(ctx, saltPointer(state.Name, state.Salt), nil, locked)
	if err == nil {
		err = grant(ctx, o, state.Name, state.Salt, locked, key, to)
	}
	if err == nil {
		err = o.SwapPointer(ctx, pointer(state.Name), old, []byte(state.String()))
	}
	if err != nil {
		return nil, State{}, fmt.Errorf("salt domain %s, epoch %d: %w", state.Name, state.Epoch, err)
	}
	return s, state, nil
}

// Grant makes the salts of a domain readable for to, with the help of one of ids
// that reads them: each that it reads, and at least the present one.
func Grant(ctx context.Context, o origin.Pointers, name string, ids []seal.Unwrapper, to []seal.Recipient) error {
	state, err := Load(ctx, o, name)
	if err != nil {
		return err
	}
	list, err := Salts(ctx, o, name)
	if err != nil {
		return err
	}
	for _, id := range list {
		_, locked, key, err := openSalt(ctx, o, name, id, ids)
		if id != state.Salt && (errors.Is(err, ErrGranted) || errors.Is(err, chunk.ErrNotFound)) {
			continue
		}
		if err == nil {
			err = grant(ctx, o, name, id, locked, key, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
