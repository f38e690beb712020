package publish

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

// A pool is the set of sealers that all layers of a publication share. It
// bounds the chunks in memory: one buffer and one sealed object each.
type pool struct {
	free     chan *sealer // those that nobody uses
	sink     chunk.Sink
	counters *counters
}

// A sealer belongs to whoever took it from the pool.
type sealer struct {
	buf  []byte // one chunk of plaintext
	seal *seal.Sealer
}

func newPool(o Options, sink chunk.Sink, c *counters) (*pool, error) {
	p := &pool{free: make(chan *sealer, o.Workers), sink: sink, counters: c}
	for range o.Workers {
		s, err := seal.NewSealer(seal.Options{ChunkSize: o.Params.Chunk, FrameSize: o.Frame, Salt: o.Salt})
		if err != nil {
			return nil, err
		}
		p.free <- &sealer{buf: make([]byte, o.Params.Chunk), seal: s}
	}
	return p, nil
}

// take waits for a sealer that nobody uses.
func (p *pool) take(ctx context.Context) (*sealer, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case s := <-p.free:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *pool) give(s *sealer) { p.free <- s }

// store seals and stores n chunks: fill puts chunk i into a buffer. The result
// has a hole for each chunk of zeros.
func (p *pool) store(ctx context.Context, n int, fill func(i int, buf []byte) error, done func(bytes int)) ([]stored, error) {
	out := make([]stored, n)
	g, gctx := errgroup.WithContext(ctx)
	for i := range n {
		s, err := p.take(gctx)
		if err != nil {
			break
		}
		g.Go(func() error {
			defer p.give(s)
			if err := fill(i, s.buf); err != nil {
				return err
			}
			var err error
			out[i], err = p.put(gctx, s)
			done(len(s.buf))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, ctx.Err()
}

// put seals the chunk in s.buf and stores it.
func (p *pool) put(ctx context.Context, s *sealer) (stored, error) {
	plain := chunk.Trim(s.buf)
	if len(plain) == 0 {
		return stored{}, nil
	}
	c, err := s.seal.Seal(plain)
	if err != nil {
		return stored{}, err
	}
	added, err := p.sink.Put(ctx, c.ID, c.Object)
	if err != nil {
		return stored{}, fmt.Errorf("store chunk %v: %w", c.ID, err)
	}
	if added {
		p.counters.newChunks.Add(1)
		p.counters.newBytes.Add(int64(len(c.Object)))
	}
	return stored{ID: c.ID, Key: c.Key, Stored: uint32(len(c.Object)), Size: uint32(c.Size), Sum: c.Sum}, nil
}
