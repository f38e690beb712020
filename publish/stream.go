package publish

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/layout"
)

// errUnordered ends the streaming of a layer whose files do not come in the
// order of its entries, so that where their data belong is known only when all
// of it was read.
var errUnordered = errors.New("files are not in order")

// A stream cuts a layer into chunks while it is read:
//
//	source.Stream            one goroutine a layer      the pool's sealers, for all layers
//	read, decompress ──────▶ file: place, fill   ─────▶ seal, store ──▶ sealed
//	      (4 MiB ahead)      bin, large: a chunk each   a chunk each
//
// Data go from the decompressor straight into the chunk that they are a part
// of. At most two of a layer are begun at one time: the open bin, and that of
// the large file being read. One that is complete is swapped for a free
// buffer of the pool; what lies behind a bin's end, less than half of it, is copied
// to the next. Reading waits for a buffer, and holds none of the pool's while it
// waits for data, so layers cannot block one another. The stream's context ends with the
// first error of either side, and convert returns when all of its goroutines
// have.
//
// Chunks are stored before the layer's digest is known to be right. Nothing
// points to them until it is.
type stream struct {
	ctx    context.Context
	giveUp context.CancelCauseFunc
	pool   *pool
	group  *errgroup.Group

	// Of the reading goroutine:
	plan       *layout.Planner
	least      int64  // size of the smallest large file
	last       string // path of the last file
	bin, large piece

	mu     sync.Mutex
	sealed []stored // by index in the segment, as far as it was begun
}

// A piece is a chunk that is being filled.
type piece struct {
	buf  []byte
	fill int // bytes of buf that are right
}

// stream reads a layer and stores its chunks meanwhile. The error matches
// errUnordered if that cannot be done.
func (p *publisher) stream(ctx context.Context, src *source.Layer) (*segment, error) {
	plan, err := layout.NewPlanner(p.opts.Params)
	if err != nil {
		return nil, err
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	g, ctx := errgroup.WithContext(ctx)
	s := &stream{
		ctx: ctx, giveUp: giveUp, pool: p.pool, group: g, plan: plan, least: int64(p.opts.Params.Large),
		bin:   piece{buf: make([]byte, p.opts.Params.Chunk)},
		large: piece{buf: make([]byte, p.opts.Params.Chunk)},
	}
	layer, err := src.Stream(ctx, s.file)
	if bin, ok := plan.Open(); ok && err == nil {
		err = s.store(&s.bin, bin.Index, bin.Bytes)
	}
	cause := context.Cause(ctx) // before Wait ends the context
	if werr := g.Wait(); err == nil {
		err = werr
	} else if cause != nil {
		err = cause
	}
	if err != nil {
		return nil, err
	}
	segment, err := plan.Segment(layer.Entries)
	if err == nil && segment == nil {
		err = errUnordered
	}
	if err != nil {
		return nil, err
	}
	return newSegment(layer, segment, s.sealed), nil
}

// file takes the data of one file; it is a flatten.FileFunc.
func (s *stream) file(e *flatten.Entry, data io.Reader) error {
	if s.last != "" && flatten.ComparePaths(s.last, e.Path) >= 0 {
		return s.unordered()
	}
	s.last = e.Path
	if e.Size == 0 {
		return nil
	}
	place, err := s.plan.Place(e)
	if err != nil {
		return s.unordered() // the layer may be small enough without what it replaces
	}
	if e.Size >= s.least {
		return s.largeFile(data, e.Size, place.Index)
	}
	for _, b := range place.Ended {
		if err := s.store(&s.bin, b.Index, b.Bytes); err != nil {
			return err
		}
	}
	return s.bin.read(data, place.Offset, int(e.Size))
}

// largeFile takes a file of size bytes that has the chunks from index on.
func (s *stream) largeFile(data io.Reader, size int64, index uint32) error {
	for ; size > 0; index++ {
		n := int(min(size, int64(len(s.large.buf))))
		if err := s.large.read(data, 0, n); err != nil {
			return err
		}
		if err := s.store(&s.large, index, n); err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

func (s *stream) unordered() error {
	s.giveUp(errUnordered)
	return errUnordered
}

// read appends n bytes that belong at offset at.
func (c *piece) read(data io.Reader, at, n int) error {
	clear(c.buf[c.fill:at])
	_, err := io.ReadFull(data, c.buf[at:at+n])
	c.fill = at + n
	return err
}

// store gives the first size bytes of c to the pool, as a chunk. What lies
// behind them becomes the beginning of c.
func (s *stream) store(c *piece, index uint32, size int) error {
	next, err := s.pool.take(s.ctx)
	if err != nil {
		return err
	}
	full := c.buf
	end := min(size, c.fill) // a file ends within its last block
	c.buf, c.fill = next, copy(next, full[end:c.fill])
	clear(full[end:])
	s.mu.Lock()
	for len(s.sealed) <= int(index) {
		s.sealed = append(s.sealed, stored{})
	}
	s.mu.Unlock()
	s.group.Go(func() error {
		sealed, err := s.pool.put(s.ctx, full)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sealed[index] = sealed
		return err
	})
	return nil
}
