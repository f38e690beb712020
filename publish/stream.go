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
// the large file being read. A full one is swapped for the buffer of a free
// sealer. Reading waits for one, and holds none while it waits for data, so
// layers cannot block one another. The stream's context ends with the first
// error of either side, and convert returns when all of its goroutines have.
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
	small      int64  // files below that size go into bins
	last       string // path of the last file
	bin, large piece

	mu     sync.Mutex
	sealed []stored // by index in the segment, as far as it was begun
}

// A piece is a chunk that is being filled.
type piece struct {
	index uint32 // in the segment
	buf   []byte
	fill  int // bytes of buf that are right; 0 if no chunk is begun
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
		ctx: ctx, giveUp: giveUp, pool: p.pool, group: g, plan: plan, small: int64(p.opts.Params.Large),
		bin:   piece{buf: make([]byte, p.opts.Params.Chunk)},
		large: piece{buf: make([]byte, p.opts.Params.Chunk)},
	}
	layer, err := src.Stream(ctx, s.file)
	if err == nil && s.bin.fill > 0 {
		err = s.store(&s.bin)
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
	index, at, err := s.plan.Place(e)
	if err != nil {
		return s.unordered() // the layer may be small enough without what it replaces
	}
	if e.Size < s.small {
		if s.bin.fill > 0 && s.bin.index != index {
			if err := s.store(&s.bin); err != nil {
				return err
			}
		}
		s.bin.index = index
		return s.bin.read(data, at, int(e.Size))
	}
	for left := e.Size; left > 0; index++ {
		n := min(left, int64(len(s.large.buf)))
		s.large.index = index
		if err := s.large.read(data, 0, int(n)); err != nil {
			return err
		}
		if err := s.store(&s.large); err != nil {
			return err
		}
		left -= n
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

// store gives a chunk that is complete to a sealer.
func (s *stream) store(c *piece) error {
	clear(c.buf[c.fill:])
	w, err := s.pool.take(s.ctx)
	if err != nil {
		return err
	}
	w.buf, c.buf = c.buf, w.buf
	c.fill = 0
	index := int(c.index)
	s.mu.Lock()
	for len(s.sealed) <= index {
		s.sealed = append(s.sealed, stored{})
	}
	s.mu.Unlock()
	s.group.Go(func() error {
		defer s.pool.give(w)
		sealed, err := s.pool.put(s.ctx, w)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sealed[index] = sealed
		return err
	})
	return nil
}
