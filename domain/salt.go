package domain

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// Open returns the salt that publishers of a domain use now, read with one of
// ids, and the domain's state, which a holder of the salt has written. The error
// is chunk.ErrNotFound if the origin has no such domain, and ErrGranted if none of
// ids opens the salt.
//
// Keys that are wrapped for own, recipients that ids open for, are asked for by
// name; only if there is none that opens the salt, all are listed.
//
// Anybody can have written both who knows for whom to wrap: compare the salt with
// what was seen before (keyring.Folder.CheckSalt).
func Open(ctx context.Context, o origin.Pointers, name string, ids []seal.Unwrapper, own ...seal.Recipient) (*seal.Salt, State, error) {
	f, err := Find(ctx, o, name)
	if err != nil {
		return nil, State{}, err
	}
	s, err := f.Open(ctx, o, ids, own...)
	if err != nil {
		return nil, State{}, err
	}
	return s, f.State, nil
}

// A Found is what an origin says of a domain, not to be acted on before Open has
// returned its salt: anybody may have written it.
type Found struct{ loaded }

// Find is the first half of Open, for those who have something else to ask for at
// the time of the second. An absent domain is chunk.ErrNotFound.
func Find(ctx context.Context, o origin.Pointers, name string) (*Found, error) {
	l, err := load(ctx, o, name)
	return &Found{l}, err
}

// Open returns the salt of the domain, whose holder has written the state.
func (f *Found) Open(ctx context.Context, o origin.Pointers, ids []seal.Unwrapper, own ...seal.Recipient) (*seal.Salt, error) {
	s, err := Salt(ctx, o, f.Name, f.Salt, ids, own...)
	if errors.Is(err, chunk.ErrNotFound) { // the state says that it is there
		err = fmt.Errorf("%w: %v", ErrFormat, err)
	}
	if err == nil {
		err = f.check(s)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Salt returns a salt of a domain by its ID; see Open.
func Salt(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID, ids []seal.Unwrapper, own ...seal.Recipient) (*seal.Salt, error) {
	opened, err := openSalt(ctx, o, name, id, ids, own)
	if err != nil {
		return nil, err
	}
	return opened.salt, nil
}

// An openedSalt is a salt of a domain with what it is locked as, and the key that
// opens it.
type openedSalt struct {
	salt   *seal.Salt
	locked []byte
	key    seal.ImageKey
}

var errFound = errors.New("found")

func openSalt(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID, ids []seal.Unwrapper, own []seal.Recipient) (*openedSalt, error) {
	what := fmt.Sprintf("salt domain %s, salt %x", name, id[:])
	locked, mine, err := ask(ctx, o, name, id, own)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	var failed []error
	var found *openedSalt
	try := func(w *wrap) error {
		var err error
		if found, err = w.open(ctx, ids, locked, id); err == nil {
			return errFound
		}
		if !errors.Is(err, seal.ErrNotRecipient) && len(failed) < 4 {
			failed = append(failed, err)
		}
		return nil
	}
	for _, w := range mine {
		if err = try(w); err != nil {
			break
		}
	}
	if err == nil {
		failed = nil // they come once more
		err = wraps(ctx, o, name, id, try)
	}
	switch {
	case errors.Is(err, errFound) && found.salt.Domain() != name:
		// With a key for one of them, it would be given to whom the other is for.
		return nil, fmt.Errorf("%w: %s: is that of domain %s", ErrFormat, what, found.salt.Domain())
	case errors.Is(err, errFound):
		return found, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return nil, fmt.Errorf("%s: %w", what, errors.Join(append([]error{ErrGranted}, failed...)...))
}

// ask asks at once for a locked salt and for its keys as they are wrapped for own.
func ask(ctx context.Context, o origin.Pointers, name string, id blockmap.SaltID, own []seal.Recipient) (locked []byte, mine []*wrap, err error) {
	names := []string{saltPointer(name, id)}
	for _, r := range own {
		names = append(names, names[0]+"/"+wrapOf(r).who())
	}
	values, err := getAll(ctx, o, names)
	if err == nil && values[0] == nil {
		err = chunk.ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	return values[0], parseWraps(values[1:]), nil
}

func saltPointer(name string, id blockmap.SaltID) string {
	return pointer(name, hex.EncodeToString(id[:]))
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

// maxEpochs bounds the epochs that Descends goes back.
const maxEpochs = 1000

// Descends reports whether each salt from the one after ancestor to s was made by
// somebody who held the one before it. It reads all of them with ids.
func Descends(ctx context.Context, o origin.Pointers, s *seal.Salt, ancestor blockmap.SaltID, ids []seal.Unwrapper) (bool, error) {
	for range maxEpochs {
		if s.ID() == ancestor {
			return true, nil
		}
		locked, err := o.GetPointer(ctx, saltPointer(s.Domain(), s.ID()))
		if err != nil {
			return false, fmt.Errorf("salt domain %s, epoch %d: %w", s.Domain(), s.Epoch(), err)
		}
		before := seal.Before(locked)
		if before == (blockmap.SaltID{}) {
			return false, nil
		}
		b, err := Salt(ctx, o, s.Domain(), before, ids)
		if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, ErrGranted) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if !s.Succeeds(b, locked) {
			return false, nil
		}
		s = b
	}
	return false, nil
}

// Create makes a domain with its first salt, for to. If somebody else made it
// first, that is origin.ErrConflict, and the domain is theirs.
func Create(ctx context.Context, o origin.Pointers, name string, c Coding, to []seal.Recipient) (*seal.Salt, State, error) {
	return begin(ctx, o, loaded{State: State{Name: name, Epoch: 1, Coding: c}}, nil, to)
}

// Rotate begins a new epoch of a domain with a new salt for to, and returns it.
// present is the domain's salt; if that is another one by now, it is
// origin.ErrConflict.
func Rotate(ctx context.Context, o origin.Pointers, present *seal.Salt, to []seal.Recipient) (*seal.Salt, State, error) {
	l, err := loadFor(ctx, o, present)
	if err != nil {
		return nil, State{}, err
	}
	l.Epoch++
	return begin(ctx, o, l, present, to)
}

// SetCoding changes how the chunks of a domain, whose salt is present, are coded
// from now on. See Rotate for the errors.
func SetCoding(ctx context.Context, o origin.Pointers, present *seal.Salt, c Coding) error {
	l, err := loadFor(ctx, o, present)
	if err != nil {
		return err
	}
	l.Coding = c
	return o.SwapPointer(ctx, pointer(l.Name), l.value, l.proved(present))
}

// loadFor returns the state of a domain whose salt is present.
func loadFor(ctx context.Context, o origin.Pointers, present *seal.Salt) (loaded, error) {
	l, err := load(ctx, o, present.Domain())
	if err == nil && l.Salt != present.ID() {
		err = fmt.Errorf("salt domain %s is in epoch %d: %w", l.Name, l.Epoch, origin.ErrConflict)
	}
	if err == nil {
		err = l.check(present)
	}
	return l, err
}

// begin makes a salt, and then the epoch that uses it. Of several that do so at
// once, one has the epoch, and what the others made is never used.
func begin(ctx context.Context, o origin.Pointers, l loaded, before *seal.Salt, to []seal.Recipient) (*seal.Salt, State, error) {
	s, err := seal.NewSalt(l.Name, l.Epoch)
	if err != nil {
		return nil, State{}, err
	}
	if l.Salt = s.ID(); len(to) == 0 {
		return nil, State{}, fmt.Errorf("salt domain %s: there is nobody to lock the salt for", l.Name)
	}
	opened := &openedSalt{salt: s}
	opened.locked, opened.key = seal.LockSalt(s, before)
	err = o.SwapPointer(ctx, saltPointer(l.Name, l.Salt), nil, opened.locked)
	if err == nil {
		err = opened.grant(ctx, o, to)
	}
	if err == nil {
		err = o.SwapPointer(ctx, pointer(l.Name), l.value, l.proved(s))
	}
	if err != nil {
		return nil, State{}, fmt.Errorf("salt domain %s, epoch %d: %w", l.Name, l.Epoch, err)
	}
	return s, l.State, nil
}
