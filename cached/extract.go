package cached

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
)

// maxHead bounds how much is asked for as a chunk's header before it is known how long it
// is: that of a chunk of which there are extracts is no longer.
var maxHead = int64(chunk.HeaderLen(chunk.MaxExtract))

// An excerpt is an extract of a chunk while it is put together.
type excerpt struct {
	header  chunk.Header
	extract chunk.Extract // that it becomes; 0: the whole chunk
	object  []byte
	lacks   chunk.Extract // frames that are not in object yet
}

// bringExtract downloads the frames that the errand is for and the cache lacks: the
// chunk's header, unless the cache has an extract of it, and then each run of frames by a
// request, all at once. It deposits them with those that the cache has.
func (e *errand) bringExtract(ctx context.Context, in *inflow) error {
	grant, err := e.server.excerpts.Acquire(ctx, 0)
	if err != nil {
		return err
	}
	defer grant.Release(0)
	x, err := e.outline(ctx)
	if err != nil {
		return err
	}
	if err := e.bringRuns(ctx, x); err != nil {
		return err
	}
	in.extract = x.extract
	w, err := in.begin(int64(len(x.object)))
	if err == nil {
		_, err = w.Write(x.object)
	}
	return err
}

// outline returns the excerpt with all that the cache has of it.
func (e *errand) outline(ctx context.Context) (*excerpt, error) {
	x := new(excerpt)
	have, kept, err := e.kept()
	if err != nil {
		return nil, err
	}
	if kept == nil {
		if kept, err = e.bringHeader(ctx); err != nil {
			return nil, err
		}
	}
	if err := x.header.ParseAs(e.flight.id, kept); err != nil {
		return nil, err
	}
	n := len(x.header.Frames)
	if n > chunk.MaxExtract {
		return nil, fmt.Errorf("asked for frames of a chunk of %d, want %d at most", n, chunk.MaxExtract)
	}
	want := e.want & (1<<n - 1) // others must get what they asked for, whatever one of them asks for
	if want == 0 {
		return nil, fmt.Errorf("asked for frames %x of a chunk that has %d", uint64(e.want), n)
	}
	all := have | want
	if x.extract, err = all.Of(&x.header); err != nil {
		return nil, err
	}
	x.lacks = all &^ have
	x.object = make([]byte, x.extract.Size(&x.header))
	copy(x.object, kept[:x.header.Len()])
	from := int64(x.header.Len())
	for i := range x.header.Frames {
		n := int64(x.header.Frames[i].Len)
		if have != 0 && have.Has(i) {
			copy(x.object[x.place(i):], kept[from:from+n])
			from += n
		}
	}
	return x, nil
}

// place returns where frame i is in the object, or would be.
func (x *excerpt) place(i int) int64 {
	at := int64(x.header.Len())
	for j := range i {
		if x.extract.Has(j) {
			at += int64(x.header.Frames[j].Len)
		}
	}
	return at
}

// kept returns which frames of the chunk the cache has, and their object; nil: none, or none
// that are good.
func (e *errand) kept() (chunk.Extract, []byte, error) {
	h, err := e.server.cache.Acquire(e.flight.id)
	if errors.Is(err, chunk.ErrNotFound) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	defer h.Release()
	if h.Extract() == 0 { // it came by another way
		return 0, nil, errOvertaken
	}
	object, err := h.AppendObject(nil)
	var corrupt *chunk.CorruptError
	if errors.As(err, &corrupt) { // and so it is dropped
		return 0, nil, nil
	}
	return h.Extract(), object, err
}

// bringHeader downloads the chunk's header, and what follows it by chance.
func (e *errand) bringHeader(ctx context.Context) ([]byte, error) {
	least := int64(chunk.HeaderLen(bits.Len64(uint64(e.want))))
	guess := min(max(e.head, least), maxHead)
	if e.request.Length > 0 {
		guess = min(guess, e.request.Length)
	}
	b, err := e.bringPart(ctx, 0, make([]byte, guess))
	if err != nil {
		return nil, err
	}
	n, err := chunk.EncodedLen(b)
	if err != nil {
		return nil, &chunk.CorruptError{ID: e.flight.id, Reason: err.Error()}
	}
	if n > len(b) {
		return e.bringPart(ctx, 0, make([]byte, n))
	}
	return b, nil
}

// bringPart downloads len(b) bytes of the chunk's object, from byte off on, into b.
func (e *errand) bringPart(ctx context.Context, off int64, b []byte) ([]byte, error) {
	r := e.request
	if r.Length > 0 && off+int64(len(b)) > r.Length {
		return nil, &chunk.CorruptError{ID: e.flight.id, Reason: "its header tells of more than there is"}
	}
	r.Offset += off
	r.Length = int64(len(b))
	return b, e.get(ctx, r, func(int64) (io.Writer, error) { return &into{b}, nil })
}

// An into writes to memory, as far as there is room.
type into struct{ room []byte }

// Write implements io.Writer.
func (w *into) Write(p []byte) (int, error) {
	n := copy(w.room, p)
	w.room = w.room[n:]
	if n < len(p) {
		return n, io.ErrShortBuffer
	}
	return n, nil
}

// bringRuns downloads the frames that x lacks.
func (e *errand) bringRuns(ctx context.Context, x *excerpt) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for i := 0; i < len(x.header.Frames); {
		if x.lacks>>i&1 == 0 {
			i++
			continue
		}
		first := i
		for i < len(x.header.Frames) && x.lacks>>i&1 != 0 {
			i++
		}
		off, n := x.header.FrameOffset(first), x.header.FrameOffset(i)-x.header.FrameOffset(first)
		b := x.object[x.place(first):][:n]
		running.Go(func() {
			if _, err := e.bringPart(ctx, off, b); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}
