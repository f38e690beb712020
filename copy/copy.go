// Package copy copies images from one origin to another, and sends only what the
// other lacks.
//
// An image is copied as it is, sealed, with what is said of it; no key is needed
// and no byte changes, so it has the same block map there. Every chunk passes the
// door that compares it with its name before it is put.
package copy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// DefaultWorkers is how many chunks are on their way at one time.
const DefaultWorkers = 32

// Options of Image; the zero value is usable.
type Options struct {
	Name    string         // the name to give; "": the one that the image was asked for by
	Workers int            // chunks on their way at one time; 0: DefaultWorkers
	Tell    func(Progress) // told how it goes on, from one goroutine at a time; nil: nobody
}

// A Progress is how far a copy has come.
type Progress struct {
	Done, Total int   // chunks
	Sent        int64 // bytes
}

// A Result tells what was copied.
type Result struct {
	Name       string              `json:"name"`
	BlockMap   string              `json:"block_map"`
	Generation origin.GenerationID `json:"generation"` // of the other origin
	Chunks     int                 `json:"chunks"`     // distinct ones
	NewChunks  int64               `json:"new_chunks"` // of them, those that were sent
	NewBytes   int64               `json:"new_bytes"`  // and their bytes as stored
}

// Image copies the image that ref means to the origin to, and names it there,
// when all of it is there. Any number of calls may run at once.
func Image(ctx context.Context, from *generation.View, to origin.Origin, ref string, o Options) (*Result, error) {
	if o.Workers == 0 {
		o.Workers = DefaultWorkers
	}
	if o.Name == "" {
		if _, isDigest := catalog.ParseRef(ref); isDigest {
			return nil, fmt.Errorf("copy image %q: it is asked for by its digest: a name to give it is needed", ref)
		}
		o.Name = ref
	}
	if err := catalog.CheckName(o.Name); err != nil {
		return nil, err
	}
	img, err := from.Attach(ctx, ref)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	keeping.Go(func() { img.Keep(ctx) })
	defer keeping.Wait()
	defer cancel()
	c := &copier{img: img, from: from.Origin(), to: to, opt: o, chunks: distinct(img.Map)}
	f := generation.Forwarder{Origin: to}
	d, g, err := f.Publish(ctx, o.Name, c.put)
	if err != nil {
		return nil, fmt.Errorf("copy image %q: %w", ref, err)
	}
	return &Result{
		Name: o.Name, BlockMap: d.String(), Generation: g,
		Chunks: len(c.chunks), NewChunks: c.sent.Load(), NewBytes: c.bytes.Load(),
	}, nil
}

// copier is one image on its way.
type copier struct {
	img    *generation.Image
	from   origin.Origin
	to     origin.Origin
	opt    Options
	chunks []blockmap.Chunk // of the image, each once

	sent, bytes atomic.Int64 // chunks, and their bytes

	mu   sync.Mutex // guards done
	done int
}

// put puts all but the name into generation g.
func (c *copier) put(ctx context.Context, g origin.GenerationID) (origin.Digest, error) {
	m, dst := c.img.Map, c.to.Generation(g)
	return m.Digest(), generation.Bring(ctx, m, c.from, c.img.Generation(), dst, func(ctx context.Context) error {
		return c.putChunks(ctx, dst)
	})
}

// distinct returns the chunks of a block map, each once.
func distinct(m *blockmap.Map) []blockmap.Chunk {
	first := make(map[chunk.ID]bool, m.Len())
	var list []blockmap.Chunk
	for i := range m.Len() {
		if k := m.Chunk(i); !first[k.ID] {
			first[k.ID] = true
			list = append(list, k)
		}
	}
	return list
}

// putChunks sends the chunks that dst lacks.
func (c *copier) putChunks(ctx context.Context, dst origin.Store) error {
	info, list := c.img.Map.Info(), c.chunks
	c.done = 0
	next := atomic.Int64{}
	g, gctx := errgroup.WithContext(ctx)
	for range min(c.opt.Workers, len(list)) {
		g.Go(func() error {
			buf := make([]byte, blockmap.MaxStored(int(info.ChunkSize()))+1)
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) || gctx.Err() != nil {
					return context.Cause(gctx)
				}
				if err := c.putChunk(gctx, dst, &list[i], buf); err != nil {
					return err
				}
				c.tell()
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return dst.Flush(ctx)
}

// putChunk sends a chunk unless dst has it in its right size.
func (c *copier) putChunk(ctx context.Context, dst origin.Store, k *blockmap.Chunk, buf []byte) error {
	size, err := dst.Stat(ctx, k.ID)
	if err == nil && size == int64(k.Stored) {
		return nil
	}
	if err != nil && !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	n, err := c.img.Fetch(ctx, k.ID, buf, 0)
	if err != nil {
		return err
	}
	if _, err := chunk.Verify(k.ID, buf[:n]); err != nil {
		return err
	}
	if n != int(k.Stored) {
		return &chunk.CorruptError{ID: k.ID, Reason: fmt.Sprintf("%d bytes, the block map says %d", n, k.Stored)}
	}
	if _, err := dst.Put(ctx, k.ID, buf[:n]); err != nil {
		return err
	}
	c.sent.Add(1)
	c.bytes.Add(int64(n))
	return nil
}

func (c *copier) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done++
	if c.opt.Tell != nil {
		c.opt.Tell(Progress{Done: c.done, Total: len(c.chunks), Sent: c.bytes.Load()})
	}
}
