package chunk

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
)

// An Extract is a set of frames of a chunk, bit i for frame i, that is kept or asked for
// with the chunk's header and without the rest. Its object is the header, followed by those
// frames in their order. The zero value is no set: it stands for the whole chunk. There are
// none of chunks of more than MaxExtract frames, and none that has all frames.
type Extract uint64

// MaxExtract is how many frames a chunk may have of which there is an Extract.
const MaxExtract = 64

// Has reports whether frame i is there: of the whole chunk, every one is.
func (e Extract) Has(i int) bool { return e == 0 || i < MaxExtract && e>>i&1 != 0 }

// Covers reports whether all of o is in e.
func (e Extract) Covers(o Extract) bool { return e == 0 || o != 0 && o&^e == 0 }

// Of returns e if h's chunk has an extract of that kind, and 0 if these are all its frames,
// or it has more than MaxExtract. Frames that it does not have are an error.
func (e Extract) Of(h *Header) (Extract, error) {
	n := len(h.Frames)
	switch {
	case bits.Len64(uint64(e)) > n:
		return 0, fmt.Errorf("frame %d of a chunk that has %d", bits.Len64(uint64(e))-1, n)
	case n > MaxExtract || bits.OnesCount64(uint64(e)) == n:
		return 0, nil
	}
	return e, nil
}

// Size returns the bytes of e's object, of the chunk of h.
func (e Extract) Size(h *Header) int64 {
	size := int64(h.Len())
	for i := range h.Frames {
		if e.Has(i) {
			size += int64(h.Frames[i].Len)
		}
	}
	return size
}

// errNoExtract is why an object is no extract of its chunk.
var errNoExtract = errors.New("frames that the chunk does not have, or all of them")

// check reports why there is no such extract of the chunk of h.
func (e Extract) check(h *Header) error {
	if of, err := e.Of(h); err != nil || of != e {
		return errNoExtract
	}
	return nil
}

// ParseAs parses the header that b, the begin of e's object, begins with, if it is the one
// that id names and e is an extract of its chunk, or 0. The error is a *CorruptError.
func (e Extract) ParseAs(h *Header, id ID, b []byte) error {
	if err := h.ParseAs(id, b); err != nil {
		return err
	}
	if e == 0 {
		return nil
	}
	if err := e.check(h); err != nil {
		return &CorruptError{id, err.Error()}
	}
	return nil
}

// NewChecker returns a Checker of what ought to be e's object of id.
func (e Extract) NewChecker(id ID) *Checker {
	c := NewChecker(id)
	c.extract = e
	return c
}

type extractKey struct{}

// WithExtract returns a context whose reads, of one chunk, are for those frames alone: a
// cache that lacks them need not bring the others. It travels in the context so that
// wrappers need not know of it.
func WithExtract(ctx context.Context, e Extract) context.Context {
	return context.WithValue(ctx, extractKey{}, e)
}

// ExtractOf returns which frames reads in ctx are for, 0 unless told.
func ExtractOf(ctx context.Context) Extract {
	e, _ := ctx.Value(extractKey{}).(Extract)
	return e
}
