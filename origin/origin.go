// Package origin is the contract of a place where images are published.
//
// An origin keeps four kinds of things. Chunks are the data. Objects are the
// other immutable things (block maps, segment records), named by the SHA-256 of
// their bytes. Attachments are what is said of an object later and by others (a
// wrapped key, a signature, a profile): a new one changes nothing that is there.
// Pointers are the few small things that change (an image's name, a chain ID's
// block map) and are replaced by compare-and-swap, last, when all that they lead
// to is stored.
//
// All of them lie in generations, each complete by itself: a [Store] is one
// generation, and what leads to an image lies beside it. So space is given back
// by deleting a generation, without counting references, and a write that comes
// too late lands where nobody looks. Package generation has the states that a
// generation goes through, which an [Origin] keeps in pointers of its own.
//
// origin/origintest has the suite that every origin passes.
package origin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/chunk"
)

// Bounds that every store enforces before it allocates.
const (
	MaxObjectBytes  = 1 << 30 // the largest object
	MaxPointerBytes = 4 << 10 // the largest pointer value
	MaxPointerName  = 512     // bytes of a pointer's name

	MaxAttachmentBytes = 1 << 20 // the largest attachment
	MaxAttachments     = 1 << 10 // attachments of one kind that an object can have
	MaxKindBytes       = 32      // of the name of a kind of attachments
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

// Check returns nil if d is the digest of data, and else ErrCorrupt.
func (d Digest) Check(data []byte) error {
	if Sum(data) != d {
		return ErrCorrupt
	}
	return nil
}

// ErrConflict is returned (wrapped) by SwapPointer when the pointer's value is
// no longer the one that the caller saw.
var ErrConflict = errors.New("changed meanwhile")

// Damaged returns what SwapPointer takes as the value of a pointer of which
// GetPointer says ErrCorrupt. It is longer than any value is, so a sound pointer
// never has it.
func Damaged() []byte { return make([]byte, MaxPointerBytes+1) }

// IsDamaged reports whether SwapPointer was called with Damaged.
func IsDamaged(old []byte) bool { return len(old) > MaxPointerBytes }

var (
	// ErrCorrupt is returned (wrapped) for an object, an attachment or a pointer
	// that is not as it was put, however often it was read.
	ErrCorrupt = errors.New("corrupt: its bytes have another SHA-256")
	// ErrReadOnly is returned (wrapped) by whatever writes, of a place that can
	// only be read: a plain web server, say.
	ErrReadOnly = errors.New("this place can only be read")
	// ErrNoListing is returned (wrapped) by whatever lists, of a place that
	// answers for names alone.
	ErrNoListing = errors.New("this place cannot list what it has")
	// ErrNoStore is returned (wrapped) when a place that is opened is no store.
	ErrNoStore = errors.New("not a rivulet store")
	// ErrVersion is returned (wrapped) when a place that is opened is a store of
	// another format version.
	ErrVersion = errors.New("store has an unknown format version")
)

// Objects keeps immutable things by digest.
type Objects interface {
	// PutObject stores data under its digest unless it is there with the same
	// size, and returns the digest. Durable and whole on return, as Sink.Put.
	PutObject(ctx context.Context, data []byte) (Digest, error)
	// GetObject returns the object, checked against d, or chunk.ErrNotFound,
	// or ErrCorrupt, with d's name, when the bytes differ. An object larger than
	// max bytes is refused unread. The caller owns the result.
	GetObject(ctx context.Context, d Digest, max int64) ([]byte, error)
	// ListObjects calls fn for each object held, in no particular order, until
	// fn fails; that error is returned. size is the object's in bytes.
	ListObjects(ctx context.Context, fn func(d Digest, size int64) error) error
	// RemoveObject removes an object, for repair; see chunk.Remover.
	RemoveObject(ctx context.Context, d Digest) error
}

// Attachments keeps what is said of an object: its subject. Kinds are words of
// lower-case letters, digits and '-'; ValidKind has the grammar. Each attachment
// is immutable, and one of a kind and content is there at most once. Whoever
// reads one has to check it: a store returns what it has.
type Attachments interface {
	// Attach adds data, of at most MaxAttachmentBytes, to what is said of
	// subject, which need not be there. Durable and whole on return.
	Attach(ctx context.Context, subject Digest, kind string, data []byte) error
	// ListAttachments calls fn for each attachment of that kind that subject
	// has, in no particular order, until fn fails; that error is returned. fn
	// owns data. A store that holds more than MaxAttachments of them fails. One
	// that cannot list goes by an index that Attach keeps (doc/format/origin.md).
	ListAttachments(ctx context.Context, subject Digest, kind string, fn func(data []byte) error) error
}

// Pointers keeps small named values.
//
// Names are slash-separated, of 1 to MaxPointerName bytes; ValidName has the
// grammar. A store may encode them as it needs, and must keep their case.
type Pointers interface {
	// GetPointer returns the value, or chunk.ErrNotFound, or ErrCorrupt where
	// bytes are stored that SwapPointer did not write for that name.
	GetPointer(ctx context.Context, name string) ([]byte, error)
	// SwapPointer replaces old by new, atomically and durably. A nil old means
	// that the pointer must not exist, a nil new removes it; an empty one is a
	// value like others. If the present
	// value is another one, nothing changes and the error is ErrConflict. If
	// it is damaged, that is ErrCorrupt, unless old is Damaged; a store may say
	// ErrCorrupt then too, if it cannot tell whether it is damaged still.
	SwapPointer(ctx context.Context, name string, old, new []byte) error
	// ListPointers calls fn for each pointer whose name begins with prefix, in
	// the byte order of names, until fn fails; that error is returned.
	ListPointers(ctx context.Context, prefix string, fn func(name string) error) error
}

// A Store is one generation of an origin. Any number of calls may run at once.
type Store interface {
	chunk.Source
	chunk.Sink
	chunk.Prober
	chunk.Lister
	chunk.Remover
	Requester
	Objects
	Attachments
	Pointers // of this generation
}

// An Origin is a place where images are published. Any number of calls may run
// at once.
type Origin interface {
	// Pointers of the whole origin: which generations there are, salts, alarms.
	Pointers
	// Generation returns the store of generation id. It asks nothing of the
	// place: one that nobody wrote to is empty.
	Generation(id GenerationID) Store
	// ListGenerations calls fn for each generation that has anything in it, in
	// no particular order, until fn fails; that error is returned.
	ListGenerations(ctx context.Context, fn func(id GenerationID) error) error
	// DeleteGeneration removes all that lies in generation id. It tells, from
	// one goroutine at a time, how many things it has removed so far. Where it
	// failed it can be called again; of what is not there, it removes nothing.
	DeleteGeneration(ctx context.Context, id GenerationID, tell func(removed int)) error
	// CopyChunk makes chunk id of generation from one of generation to as well,
	// and reports whether it was not one yet. It does not read the chunk where
	// the place can copy by itself, so damage is copied too. A chunk that from
	// lacks is chunk.ErrNotFound. Durability is as for Sink.Put, with to's Flush.
	CopyChunk(ctx context.Context, id chunk.ID, from, to GenerationID) (added bool, err error)
}

// A GenerationID names a generation of an origin; ids are given out from 1 on
// and never again.
type GenerationID uint32

// String returns the id in decimal.
func (id GenerationID) String() string { return strconv.FormatUint(uint64(id), 10) }

// ParseGenerationID is the inverse of [GenerationID.String]; it accepts no other
// spelling, and no 0.
func ParseGenerationID(s string) (GenerationID, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if id := GenerationID(n); err == nil && id != 0 && id.String() == s {
		return id, nil
	}
	return 0, fmt.Errorf("generation %q: want a number from 1 on", s)
}

// ValidKind reports, by a nil error, whether kind may name a kind of
// attachments: 1 to MaxKindBytes lower-case letters, digits and '-', a letter
// first.
func ValidKind(kind string) error {
	ok := kind != "" && len(kind) <= MaxKindBytes && kind[0] >= 'a' && kind[0] <= 'z'
	for i := range len(kind) {
		c := kind[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("kind of attachments %q: want up to %d lower-case letters, digits and '-'", kind, MaxKindBytes)
	}
	return nil
}

// CheckAttachment reports, by a nil error, whether data may be an attachment of
// that kind.
func CheckAttachment(kind string, data []byte) error {
	if len(data) > MaxAttachmentBytes {
		return fmt.Errorf("attachment of %d bytes, at most %d are allowed", len(data), MaxAttachmentBytes)
	}
	return ValidKind(kind)
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
