// Package origin is the contract of a place where images are published.
//
// An origin keeps three kinds of things. Chunks are the data. Objects are the
// other immutable things (block maps, layer records), named by the SHA-256 of
// their bytes. Pointers are the few small things that change (an image's name,
// a chain ID's block map) and are replaced by compare-and-swap, last, when all
// that they lead to is stored.
//
// origin/origintest has the suite that every store passes.
package origin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/rivuletfs/rivulet/chunk"
)

// Bounds that every store enforces before it allocates.
const (
	MaxObjectBytes  = 1 << 30 // the largest object
	MaxPointerBytes = 4 << 10 // the largest pointer value
	MaxPointerName  = 512     // bytes of a pointer's name
)

// A Digest names an object: the SHA-256 of its bytes.
type Digest [sha256.Size]byte

// String returns "sha256:" and 64 hexadecimal digits.
func (d Digest) String() string { return "sha256:" + chunk.ID(d).String() }

// ParseDigest is the inverse of [Digest.String].
func ParseDigest(s string) (Digest, error) {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		return Digest{}, fmt.Errorf("digest %q: want sha256:<64 hexadecimal digits>", s)
	}
	id, err := chunk.ParseID(hex)
	if err != nil {
		return Digest{}, fmt.Errorf("digest %q: want sha256:<64 hexadecimal digits>", s)
	}
	return Digest(id), nil
}

// Sum returns the digest of data.
func Sum(data []byte) Digest { return sha256.Sum256(data) }

// ErrConflict is returned (wrapped) by SwapPointer when the pointer's value is
// no longer the one that the caller saw.
var ErrConflict = errors.New("changed meanwhile")

// Objects keeps immutable things by digest.
type Objects interface {
	// PutObject stores data under its digest unless it is there with the same
	// size, and returns the digest. Durable and whole on return, as Sink.Put.
	PutObject(ctx context.Context, data []byte) (Digest, error)
	// GetObject returns the object, checked against d, or chunk.ErrNotFound,
	// or an error that names d when the bytes differ. An object larger than
	// max bytes is refused unread. The caller owns the result.
	GetObject(ctx context.Context, d Digest, max int64) ([]byte, error)
}

// Pointers keeps small named values.
//
// Names are slash-separated, of 1 to MaxPointerName bytes; ValidName has the
// grammar. A store may encode them as it needs, and must keep their case.
type Pointers interface {
	// GetPointer returns the value, or chunk.ErrNotFound.
	GetPointer(ctx context.Context, name string) ([]byte, error)
	// SwapPointer replaces old by new, atomically and durably. A nil old means
	// that the pointer must not exist, a nil new removes it; an empty one is a
	// value like others. If the present
	// value is another one, nothing changes and the error is ErrConflict.
	SwapPointer(ctx context.Context, name string, old, new []byte) error
	// ListPointers calls fn for each pointer whose name begins with prefix, in
	// the byte order of names, until fn fails; that error is returned.
	ListPointers(ctx context.Context, prefix string, fn func(name string) error) error
}

// A Store is a whole origin.
type Store interface {
	chunk.Source
	chunk.Sink
	chunk.Prober
	chunk.Lister
	Objects
	Pointers
}

// ValidName reports, by a nil error, whether name may name a pointer: parts
// of visible ASCII other than '/' and '\', separated by single slashes, none
// of them "." or "..".
func ValidName(name string) error {
	if name == "" || len(name) > MaxPointerName {
		return fmt.Errorf("pointer name of %d bytes: want 1 to %d", len(name), MaxPointerName)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("pointer name %q: empty, \".\" or \"..\" part", name)
		}
		for i := range len(part) {
			if c := part[i]; c <= ' ' || c > '~' || c == '\\' {
				return fmt.Errorf("pointer name %q: byte %#02x is not allowed", name, c)
			}
		}
	}
	return nil
}
