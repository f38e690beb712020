// Package domain keeps the salt domains of an origin: who publishes with which
// salt.
//
// Images of one domain share their chunks; those of two share none. A domain has
// a salt, and a new one each epoch, so that what an old epoch's chunks suffer (a
// leaked salt, a damaged chunk that everybody uses) ends with it. Old images go
// on being read: readers need no salt, only publishers do.
//
// A domain's state and its salts are pointers of the whole origin, since they
// outlast generations:
//
//	salts/DOMAIN            which salt publishers use, and how chunks are coded
//	salts/DOMAIN/SALT       a salt, locked by a key of its own (seal.LockSalt)
//	salts/DOMAIN/SALT/WHO   that key, wrapped for one publisher
//
// doc/format/origin.md has the bytes. Whoever may write to the origin can take all
// of that away, and wrap a salt of its own for anybody. So state, recipients and
// the step to a new epoch have proofs that holders of the salt alone can make
// (seal.Salt.Vouch), and publishers remember the IDs of the salts that they have
// seen (package keyring).
package domain

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

var (
	// ErrGranted is returned (wrapped) when a salt is there, and not for any of
	// the identities given.
	ErrGranted = errors.New("its salt is not granted to you")
	// ErrForged is returned (wrapped) for what nobody who holds the salt has
	// written.
	ErrForged = errors.New("was not written by anybody who holds its salt")
	// ErrFormat is returned (wrapped) for pointers that are not as they should be.
	ErrFormat = errors.New("malformed salt domain")
)

// A Coding says how a domain's chunks are coded before they are sealed.
type Coding struct {
	Policy seal.Policy
	Level  zstd.EncoderLevel // of the zstd encoder; 0: seal.DefaultLevel
}

// A State is what an origin says of a domain.
type State struct {
	Name   string
	Epoch  uint32          // that publishers are in, from 1 on
	Salt   blockmap.SaltID // its salt
	Coding Coding
}

const (
	prefix    = "salts/"
	stateHead = "rivulet salt domain 1"
	stateTail = "proof "

	stateLabel = "rivulet salt domain v1" // of the proof
)

// Pointer returns the name of the origin's pointer that has a domain's state.
func Pointer(name string) string { return pointer(name) }

// pointer returns the name of a pointer of the domain.
func pointer(name string, parts ...string) string {
	return prefix + strings.Join(append([]string{name}, parts...), "/")
}

// String returns the state as it is stored, without its proof.
func (s State) String() string {
	return fmt.Sprintf("%s\nepoch %d\nsalt %x\ncodec %s\n", stateHead, s.Epoch, s.Salt[:], s.Coding)
}

// proved returns the state as it is stored, with the proof by its salt.
func (s State) proved(salt *seal.Salt) []byte {
	text := s.String()
	return fmt.Appendf(nil, "%s%s%x\n", text, stateTail, salt.Vouch(stateLabel, []byte(text)))
}

// String returns the coding as it is stored and as ParseCoding reads it: "raw",
// "zstd", or "zstd" and a level.
func (c Coding) String() string {
	switch {
	case c.Policy == seal.NeverCode:
		return "raw"
	case c.Level == 0:
		return "zstd"
	}
	return "zstd " + c.Level.String()
}

// ParseCoding is the inverse of Coding.String, and accepts no other spelling.
func ParseCoding(s string) (Coding, error) {
	word, level, more := strings.Cut(s, " ")
	c := Coding{}
	var err error
	switch {
	case word == "raw":
		c.Policy = seal.NeverCode
	case more:
		var known bool
		if known, c.Level = zstd.EncoderLevelFromString(level); !known {
			err = errors.New("unknown level")
		}
	}
	if err != nil || c.String() != s {
		return Coding{}, fmt.Errorf("coding %.40q: want raw, zstd, or zstd fastest, default, better or best", s)
	}
	return c, nil
}

// parseState reads the state of a domain, and returns its proof unchecked.
func parseState(name string, value []byte) (State, []byte, error) {
	s := State{Name: name}
	bad := fmt.Errorf("%w %s: %.100q", ErrFormat, name, value)
	lines := strings.Split(string(value), "\n")
	if len(lines) != 6 || lines[0] != stateHead {
		return State{}, nil, bad
	}
	epoch, err := strconv.ParseUint(strings.TrimPrefix(lines[1], "epoch "), 10, 32)
	if err != nil || epoch == 0 {
		return State{}, nil, bad
	}
	s.Epoch = uint32(epoch)
	if s.Salt, err = catalog.ParseSaltID(strings.TrimPrefix(lines[2], "salt ")); err != nil {
		return State{}, nil, bad
	}
	if s.Coding, err = ParseCoding(strings.TrimPrefix(lines[3], "codec ")); err != nil {
		return State{}, nil, bad
	}
	proof, err := hex.DecodeString(strings.TrimPrefix(lines[4], stateTail))
	if err != nil || fmt.Sprintf("%s%s%x\n", s, stateTail, proof) != string(value) {
		return State{}, nil, bad
	}
	return s, proof, nil
}

// Load returns what the origin says of a domain, which anybody may have written,
// or chunk.ErrNotFound. Open is for those who act on it.
func Load(ctx context.Context, o origin.Pointers, name string) (State, error) {
	l, err := load(ctx, o, name)
	return l.State, err
}

// A loaded state is one as the origin has it.
type loaded struct {
	State
	proof []byte // by its salt
	value []byte // all of it, to swap
}

func load(ctx context.Context, o origin.Pointers, name string) (loaded, error) {
	if err := seal.CheckDomain(name); err != nil {
		return loaded{}, err
	}
	value, err := o.GetPointer(ctx, pointer(name))
	if err != nil {
		return loaded{}, fmt.Errorf("salt domain %s: %w", name, err)
	}
	s, proof, err := parseState(name, value)
	return loaded{s, proof, value}, err
}

// check checks that salt is the one that l speaks of, and that a holder wrote it.
func (l *loaded) check(salt *seal.Salt) error {
	if salt.Domain() != l.Name || salt.Epoch() != l.Epoch || salt.ID() != l.Salt {
		return fmt.Errorf("%w %s: its salt is that of domain %s, epoch %d", ErrFormat, l.Name, salt.Domain(), salt.Epoch())
	}
	if !salt.Vouched(stateLabel, []byte(l.String()), l.proof) {
		return fmt.Errorf("salt domain %s: its state %w", l.Name, ErrForged)
	}
	return nil
}

// List calls fn for each domain of an origin, by name, until fn fails; that error
// is returned.
func List(ctx context.Context, o origin.Pointers, fn func(State) error) error {
	return o.ListPointers(ctx, prefix, func(key string) error {
		name := key[len(prefix):]
		if strings.Contains(name, "/") || seal.CheckDomain(name) != nil {
			return nil
		}
		s, err := Load(ctx, o, name)
		if errors.Is(err, chunk.ErrNotFound) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		return fn(s)
	})
}
