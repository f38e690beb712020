package host

import (
	"context"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
)

// watched is a reader by way of a cache. Of a sample of its reads it finds out
// whether the origin was asked, by a witness before that. If not, they were hits,
// and are looked for there. Reads outside the sample cost nothing more.
type watched struct {
	chunk.Reader
	sampler *generation.Sampler
}

// ReadChunk implements [chunk.Reader].
func (w watched) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if !w.sampler.Pick() {
		return w.Reader.ReadChunk(ctx, id, dst, off)
	}
	var asked atomic.Bool
	n, err := w.Reader.ReadChunk(context.WithValue(ctx, askedKey{}, &asked), id, dst, off)
	if err == nil && !asked.Load() {
		w.sampler.Look(id)
	}
	return n, err
}

type askedKey struct{}

// witness tells who asked that the origin was read.
type witness struct{ chunk.Reader }

// ReadChunk implements [chunk.Reader].
func (w witness) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if asked, ok := ctx.Value(askedKey{}).(*atomic.Bool); ok {
		asked.Store(true)
	}
	return w.Reader.ReadChunk(ctx, id, dst, off)
}
