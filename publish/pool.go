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
//	take ─► buffer: fill ─► sealer: seal ─► object: store
//	        Buffers         Workers         Puts
//
// Sealers keep the processors busy, and objects the way to the origin: so a far
// origin, or one that syncs, holds up no processor. Buffers are filled while
// others are sealed. Together they bound the chunks in memory: one of plaintext
// for each buffer, a sealed one for each sealer and each object. What was put is
// let go of in this order: whoever has one thing waits for the next alone.
type pool struct {
	buffers  chan []byte // of one chunk of plaintext, that nobody uses
	sealers  chan *seal.Sealer
	objects  chan []byte // buffers for sealed chunks under way
	sink     chunk.Sink
	counters *counters
	kept     *kept // nil: nothing is
}

// buffersPerWorker is how many chunks of plaintext there are for each sealer.
const buffersPerWorker = 4

func newPool(o *Options, sink chunk.Sink, c *counters) (*pool, error) {
	n := buffersPerWorker * o.Workers
	p := &pool{
		buffers: make(chan []byte, n), sealers: make(chan *seal.Sealer, o.Workers), objects: make(chan []byte, o.Puts),
		sink: sink, counters: c,
	}
	for range n {
		p.buffers <- make([]byte, o.Params.Chunk)
	}
	for range o.Workers {
		s, err := seal.NewSealer(seal.Options{
			ChunkSize: o.Params.Chunk, FrameSize: o.Frame, Salt: o.Salt, Policy: o.Policy, Level: o.Level,
		})
		if err != nil {
			return nil, err
		}
		p.sealers <- s
	}
	for range o.Puts {
		p.objects <- nil // grown when used
	}
	return p, nil
}

// take waits for a buffer that nobody uses.
func (p *pool) take(ctx context.Context) ([]byte, error) { return take(ctx, p.buffers) }

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

func (p *pool) give(buf []byte) { p.buffers <- buf }

// store seals and stores n chunks: fill puts chunk i into a buffer. The result
// has a hole for each chunk of zeros.
func (p *pool) store(ctx context.Context, n int, fill func(ctx context.Context, i int, buf []byte) error, done func(bytes int)) ([]stored, error) {
	return p.storeShown(ctx, n, fill, func(int, []byte) {}, done)
}

// storeShown is store that shows what each chunk is stored as, nothing of a hole, as
// soon as it is sealed; show does not keep it.
func (p *pool) storeShown(ctx context.Context, n int, fill func(ctx context.Context, i int, buf []byte) error, show func(i int, object []byte), done func(bytes int)) ([]stored, error) {
	out := make([]stored, n)
	g, gctx := errgroup.WithContext(ctx)
	for i := range n {
		buf, err := p.take(gctx)
		if err != nil {
			break
		}
		g.Go(func() error {
			if err := fill(gctx, i, buf); err != nil {
				p.give(buf)
				return err
			}
			size := len(buf)
			var err error
			out[i], err = p.putShown(gctx, buf, func(object []byte) { show(i, object) })
			done(size)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, ctx.Err()
}

// put seals the chunk in buf, gives that back and stores what was sealed.
func (p *pool) put(ctx context.Context, buf []byte) (stored, error) {
	return p.putShown(ctx, buf, func([]byte) {})
}

// putShown is put that shows what the chunk is stored as; see storeShown.
func (p *pool) putShown(ctx context.Context, buf []byte, show func(object []byte)) (stored, error) {
	st, object, err := p.seal(ctx, chunk.Trim(buf))
	p.give(buf)
	if err != nil {
		return stored{}, err
	}
	show(object)
	if st.hole() {
		return stored{}, nil
	}
	defer func() { p.objects <- object }()
	if p.kept != nil {
		p.kept.add(st.ID, object)
	}
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

// seal returns a chunk as it is stored. object is one of the pool's, unless the
// chunk is a hole.
func (p *pool) seal(ctx context.Context, plain []byte) (st stored, object []byte, err error) {
	if len(plain) == 0 {
		return stored{}, nil, nil
	}
	s, err := take(ctx, p.sealers)
	if err != nil {
		return stored{}, nil, err
	}
	defer func() { p.sealers <- s }()
	c, err := s.Seal(plain)
	if err != nil {
		return stored{}, nil, err
	}
	if object, err = take(ctx, p.objects); err != nil {
		return stored{}, nil, err
	}
	object = append(object[:0], c.Object...)
	return stored{ID: c.ID, Key: c.Key, Stored: uint32(len(object)), Size: uint32(c.Size), Sum: c.Sum}, object, nil
}
