package publish

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

// A pool is what all layers of a publication share:
//
//	take ─► sealer: fill ─► put: seal ─► object: store
//	        Workers                      Puts
//
// Sealers keep the processors busy, and objects the way to the origin: so a far
// origin, or one that syncs, holds up no processor. Together they bound the
// chunks in memory: a buffer and a sealed chunk for each sealer, a sealed chunk
// for each object. What was put is let go of in this order, so that whoever has
// a sealer waits for an object, and never the other way.
type pool struct {
	free     chan *sealer // those that nobody uses
	objects  chan []byte  // buffers for sealed chunks under way
	sink     chunk.Sink
	counters *counters
}

// A sealer belongs to whoever took it from the pool.
type sealer struct {
	buf  []byte // one chunk of plaintext
	seal *seal.Sealer
}

func newPool(o *Options, sink chunk.Sink, c *counters) (*pool, error) {
	p := &pool{free: make(chan *sealer, o.Workers), objects: make(chan []byte, o.Puts), sink: sink, counters: c}
	for range o.Workers {
		s, err := seal.NewSealer(seal.Options{
			ChunkSize: o.Params.Chunk, FrameSize: o.Frame, Salt: o.Salt, Policy: o.Policy, Level: o.Level,
		})
		if err != nil {
			return nil, err
		}
		p.free <- &sealer{buf: make([]byte, o.Params.Chunk), seal: s}
	}
	for range o.Puts {
		p.objects <- nil // grown when used
	}
	return p, nil
}

// take waits for a sealer that nobody uses.
func (p *pool) take(ctx context.Context) (*sealer, error) { return take(ctx, p.free) }

func take[T any](ctx context.Context, from chan T) (t T, err error) {
	if ctx.Err() != nil {
		return t, context.Cause(ctx)
	}
	select {
	case t = <-from:
		return t, nil
	case <-ctx.Done():
		return t, context.Cause(ctx)
	}
}

func (p *pool) give(s *sealer) { p.free <- s }

// store seals and stores n chunks: fill puts chunk i into a buffer. The result
// has a hole for each chunk of zeros.
func (p *pool) store(ctx context.Context, n int, fill func(ctx context.Context, i int, buf []byte) error, done func(bytes int)) ([]stored, error) {
	out := make([]stored, n)
	g, gctx := errgroup.WithContext(ctx)
	for i := range n {
		s, err := p.take(gctx)
		if err != nil {
			break
		}
		g.Go(func() error {
			if err := fill(gctx, i, s.buf); err != nil {
				p.give(s)
				return err
			}
			size := len(s.buf)
			var err error
			out[i], err = p.put(gctx, s)
			done(size)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, ctx.Err()
}

// put seals the chunk in s.buf, gives s back and stores what was sealed.
func (p *pool) put(ctx context.Context, s *sealer) (stored, error) {
	st, object, err := p.seal(ctx, s)
	p.give(s)
	if err != nil || st.hole() {
		return stored{}, err
	}
	defer func() { p.objects <- object }()
	added, err := p.sink.Put(ctx, st.ID, object)
	if err != nil {
		return stored{}, fmt.Errorf("store chunk %v: %w", st.ID, err)
	}
	if added {
		p.counters.newChunks.Add(1)
		p.counters.newBytes.Add(int64(len(object)))
	}
	return st, nil
}

// seal returns the chunk in s.buf as it is stored. object is one of the pool's,
// unless the chunk is a hole.
func (p *pool) seal(ctx context.Context, s *sealer) (st stored, object []byte, err error) {
	plain := chunk.Trim(s.buf)
	if len(plain) == 0 {
		return stored{}, nil, nil
	}
	c, err := s.seal.Seal(plain)
	if err != nil {
		return stored{}, nil, err
	}
	if object, err = take(ctx, p.objects); err != nil {
		return stored{}, nil, err
	}
	object = append(object[:0], c.Object...)
	return stored{ID: c.ID, Key: c.Key, Stored: uint32(len(object)), Size: uint32(c.Size), Sum: c.Sum}, object, nil
}
