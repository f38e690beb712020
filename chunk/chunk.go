// Package chunk holds the vocabulary of stored data: what a chunk is, what it
// is called, and the contracts of the things that keep chunks.
//
// A disk is cut at multiples of [Size]. Trailing zeros of a piece are dropped,
// and a piece of zeros only does not exist. What is left is cut into frames of
// [FrameSize] plaintext bytes; every frame is coded and sealed by itself. The
// stored object is
//
//	header ‖ frame 0 ‖ frame 1 ‖ …
//
// and the chunk's name is the SHA-256 of the header alone, which lists length
// and SHA-256 of every stored frame. So whoever holds any part of an object
// can check it against the name without a key, a frame at a time.
// doc/format/chunk.md has the bytes.
//
// Trust is a matter of types. A [Source] may return anything; a [Reader] only
// what was checked. [Door] is the one way from the first to the second, and
// everything above it takes a Reader, so that the compiler refuses to serve
// bytes nobody looked at.
package chunk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// Parameters of the format, in bytes. The header carries both sizes, so other
// values within the bounds can be read; these are what publishers use.
const (
	Size      = 512 << 10 // plaintext bytes of a full chunk
	FrameSize = 64 << 10  // plaintext bytes of a full frame

	MinSize      = 64 << 10 // smallest chunk size accepted
	MaxSize      = 4 << 20  // largest chunk size accepted
	MinFrameSize = 16 << 10 // smallest frame size accepted
	MaxFrameSize = 1 << 20  // largest frame size accepted
	MaxFrames    = MaxSize / MinFrameSize
)

// ID names a chunk: the SHA-256 of its header.
type ID [sha256.Size]byte

// String returns the ID as 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID is the inverse of [ID.String]; it accepts no other spelling.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("chunk ID %q: want %d hexadecimal digits", s, 2*len(id))
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ID{}, fmt.Errorf("chunk ID %q: not lower-case hexadecimal", s)
		}
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err
}

// ErrNotFound is returned (wrapped) for a chunk, object or pointer that the
// store does not hold. No other failure matches it.
var ErrNotFound = errors.New("not found")

// A CorruptError says that bytes of a chunk are not what its name promises.
// Retrying the same copy does not help; another copy may.
type CorruptError struct {
	ID     ID
	Reason string // what differs, without a trailing period
}

func (e *CorruptError) Error() string { return "chunk " + e.ID.String() + ": corrupt: " + e.Reason }

// A Source returns stored bytes that nobody has checked yet.
type Source interface {
	// Fetch copies stored bytes of chunk id, from byte off on, into dst and
	// returns how many. n < len(dst) with a nil error means that the object
	// ends there; an off at or past the end gives 0, nil. A missing chunk is
	// ErrNotFound. dst belongs to the caller again on return, and its bytes
	// past n are undefined. Any number of calls may run at once. When ctx
	// ends, Fetch returns soon, with the context's error.
	Fetch(ctx context.Context, id ID, dst []byte, off int64) (n int, err error)
}

// A Reader returns stored bytes of chunks that were checked against the name.
type Reader interface {
	// ReadChunk is Source.Fetch for checked bytes: every byte of dst[:n] was
	// covered by a digest that the header of id lists. Damage is reported as a
	// *CorruptError, and n is then 0.
	ReadChunk(ctx context.Context, id ID, dst []byte, off int64) (n int, err error)
}

// None is the Reader of no chunk: each is ErrNotFound. It ends readers that are made of others, so that what is in
// those is all there is.
type None struct{}

// ReadChunk implements [Reader].
func (None) ReadChunk(_ context.Context, id ID, _ []byte, _ int64) (int, error) {
	return 0, fmt.Errorf("chunk %v: %w", id, ErrNotFound)
}

// A Sink stores chunks.
type Sink interface {
	// Put stores object, the whole stored form, under id unless it is there
	// already, and reports whether it wrote (of several that put one id at once,
	// each may say so). What is there counts only if its size is right, else
	// it is replaced; its bytes are not looked at, unless the store itself
	// keeps a digest of them. The object is visible as a whole or not at all,
	// and both visible and durable when a later Flush returned nil; most stores
	// are done with it when Put returns. Put checks that the object is what id
	// promises. It does not keep object. Any number of calls may run at once,
	// for one id too.
	Put(ctx context.Context, id ID, object []byte) (added bool, err error)
	// Flush returns when all that was put before is durable and visible to
	// every reader of the store. A store that gathers chunks before it writes
	// them does so now.
	Flush(ctx context.Context) error
}

// A Prober tells which chunks a store holds without reading them.
type Prober interface {
	// Stat returns the stored size of id in bytes, or ErrNotFound.
	Stat(ctx context.Context, id ID) (size int64, err error)
}

// A Remover takes chunks out of a store, for repair: what was removed can be put
// anew. Space is given back by the generation, not by the chunk.
type Remover interface {
	// Remove removes chunk id. One that is not there is no error.
	Remove(ctx context.Context, id ID) error
}

// A Lister walks a store.
type Lister interface {
	// List calls fn for each chunk held, in no particular order, until fn
	// fails; that error is returned. Chunks put or removed meanwhile may or may
	// not be seen.
	List(ctx context.Context, fn func(id ID, size int64) error) error
}
