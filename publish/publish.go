// Package publish makes a disk from an image and puts it into an origin.
//
// The way of an image:
//
//  1. source.Open finds its layers. A chain ID that the origin knows
//     already, with all of its chunks there, ends here.
//  2. Every layer becomes a segment. One whose diff ID the origin remembers is
//     not even downloaded; another is planned by package layout, cut, sealed
//     and stored while it is read, or, if its files are not in order, read
//     again into a temporary file first. Several layers are under way at once,
//     and all share one pool of sealers.
//  3. flatten.Merge makes one tree of the layers, layout.Build the metadata of
//     the file system, which is cut, sealed and stored like the rest.
//  4. The block map is stored, then the pointers, the name last.
//
// Nothing is visible before it is whole, and everything but pointers is named
// by its content: a publisher that was killed leaves at most chunks that nobody
// points to, and run again it goes on where it stopped.
package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// Options of Image; with a salt alone, it publishes an image under its own reference.
type Options struct {
	Salt     *seal.Salt     // what chunks are sealed with; required
	Name     string         // the name to give; "" derives one from the source
	Size     int64          // of the disk in bytes; 0 chooses, see layout.Image
	Source   source.Options // how to reach and read the source
	Params   layout.Params  // zero: layout.Default
	Frame    int            // frame size in bytes; 0: chunk.FrameSize
	TempDir  string         // for layers while they are cut; "": the system's
	Workers  int            // sealers; 0: two for each processor
	Progress func(Event)    // told of progress, from one goroutine at a time
}

// A Result tells what was published.
type Result struct {
	Name         string `json:"name"`
	Digest       string `json:"digest"`    // of the disk: the same for every publisher
	BlockMap     string `json:"block_map"` // object that attaches the disk
	SourceDigest string `json:"source_digest"`
	ChainID      string `json:"chain_id"`
	DiskSize     int64  `json:"disk_size"`     // bytes of the device
	Chunks       int    `json:"chunks"`        // pieces of the disk that are not zero
	StoredBytes  int64  `json:"stored_bytes"`  // of the distinct chunks, as stored
	NewChunks    int64  `json:"new_chunks"`    // of them, chunks that the origin lacked
	NewBytes     int64  `json:"new_bytes"`     // and their bytes as stored
	FetchedBytes int64  `json:"fetched_bytes"` // compressed bytes read from the source's layers
	LayersKnown  int    `json:"layers_known"`  // layers that were not read at all
	Layers       int    `json:"layers"`
}

// layersAtOnce bounds the layers that are read at one time; each may take a
// core to decompress and its own size in the temporary folder.
const layersAtOnce = 3

// statsAtOnce bounds the questions to the origin under way at one time.
const statsAtOnce = 32

// Image publishes the image that srcs name (see source.Open) to store.
// Any number of calls may run at once, in one process or many.
func Image(ctx context.Context, store origin.Store, srcs []string, o Options) (*Result, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	p := &publisher{store: store, opts: o}
	p.opts.Source.Progress = p.read
	img, err := source.Open(ctx, srcs, p.opts.Source)
	if err != nil {
		return nil, err
	}
	defer func() { _ = img.Close() }()
	p.setImage(img)
	if p.name, err = imageName(o.Name, srcs, img); err != nil {
		return nil, err
	}
	if p.pool, err = newPool(o, store, &p.counters); err != nil {
		return nil, err
	}
	p.progress = newProgress(o.Progress, len(img.Layers))
	m, err := p.known(ctx)
	if err != nil {
		return nil, err
	}
	if m == nil {
		if m, err = p.make(ctx); err != nil {
			return nil, err
		}
	}
	if err := p.point(ctx, m); err != nil {
		return nil, err
	}
	return p.result(m), nil
}

func (o *Options) complete() error {
	if o.Salt == nil {
		return errors.New("publish: no salt to seal chunks with")
	}
	if o.Params == (layout.Params{}) {
		o.Params = layout.Default
	}
	if o.Frame == 0 {
		o.Frame = min(chunk.FrameSize, o.Params.Chunk)
	}
	if o.Workers == 0 {
		o.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	o.Source.TempDir = o.TempDir
	if o.Name != "" {
		if err := catalog.CheckName(o.Name); err != nil {
			return err
		}
	}
	return o.Params.Check()
}

// standard says whether the options give the disks that layout.Version stands
// for; others are not remembered.
func (o *Options) standard() bool {
	return o.Params == layout.Default && o.Frame == chunk.FrameSize
}

type publisher struct {
	store    origin.Store
	opts     Options
	img      *source.Image
	name     string
	pool     *pool
	progress *progress
	counters

	layerRead []atomic.Int64 // bytes of each layer that its reader told of
}

// counters are shared by all goroutines of one publication.
type counters struct {
	newChunks, newBytes atomic.Int64
	fetched             atomic.Int64
	layersKnown         atomic.Int64
}

func (p *publisher) chainID() origin.Digest {
	return chainID(p.img.Layers)
}

func (p *publisher) setImage(img *source.Image) {
	p.img, p.layerRead = img, make([]atomic.Int64, len(img.Layers))
}

// read is told how much of a layer was read.
func (p *publisher) read(l *source.Layer, n int64) {
	if i := slices.Index(p.img.Layers, l); i >= 0 {
		p.layerRead[i].Store(n)
		p.progress.reading(i, n, l.Size)
	}
}

// known returns the block map of an image with these layers if the origin has
// one and all of its chunks, or nil.
func (p *publisher) known(ctx context.Context) (*blockmap.Map, error) {
	if !p.opts.standard() {
		return nil, nil
	}
	d, err := catalog.Get(ctx, p.store, p.chainKey())
	if err != nil {
		return nil, unlessMissing(err)
	}
	m, err := catalog.Load(ctx, p.store, d)
	if err != nil {
		return nil, context.Cause(ctx) // it can be made again
	}
	if info := m.Info(); info.SaltID != p.opts.Salt.ID() || info.ChainID != p.chainID() || info.Layout != layout.Version || p.opts.Size != 0 && info.Size != p.opts.Size {
		return nil, nil // a pointer that leads astray
	}
	chunks := make([]blockmap.Chunk, m.Len())
	for i := range chunks {
		chunks[i] = m.Chunk(i)
	}
	ok, err := p.present(ctx, len(chunks), func(i int) (chunk.ID, uint32) { return chunks[i].ID, chunks[i].Stored })
	if err != nil || !ok {
		return nil, err
	}
	p.layersKnown.Store(int64(len(p.img.Layers)))
	for i := range p.img.Layers {
		p.progress.known(i)
	}
	info := m.Info()
	if info.Source == origin.Digest(hashBytes(p.img.Digest)) && string(info.Config) == string(p.img.Config) {
		return m, nil
	}
	info.Source, info.Config = origin.Digest(hashBytes(p.img.Digest)), p.img.Config
	return p.storeMap(ctx, &info, chunks)
}

// present reports whether the origin holds n chunks, each of its right size.
func (p *publisher) present(ctx context.Context, n int, at func(int) (chunk.ID, uint32)) (bool, error) {
	var missing atomic.Bool
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(statsAtOnce)
	for i := range n {
		if missing.Load() || ctx.Err() != nil {
			break
		}
		id, want := at(i)
		if want == 0 {
			continue
		}
		g.Go(func() error {
			size, err := p.store.Stat(ctx, id)
			if errors.Is(err, chunk.ErrNotFound) || (err == nil && size != int64(want)) {
				missing.Store(true)
				return nil
			}
			return err
		})
	}
	err := g.Wait()
	return err == nil && !missing.Load(), err
}

// make does the work of an image that the origin does not know.
func (p *publisher) make(ctx context.Context) (*blockmap.Map, error) {
	segments, err := p.segments(ctx)
	if err != nil {
		return nil, err
	}
	return p.disk(ctx, segments)
}

func (p *publisher) chainKey() string {
	return catalog.ChainKey(p.chainID(), layout.Version, p.opts.Salt.ID(), p.opts.Size)
}

// point makes the image findable, by its name last.
func (p *publisher) point(ctx context.Context, m *blockmap.Map) error {
	info := m.Info()
	d := m.Digest()
	keys := []string{catalog.DigestKey(info.Source), catalog.DigestKey(info.Disk)}
	if p.opts.standard() {
		keys = append(keys, p.chainKey())
	}
	for _, key := range keys {
		if _, err := catalog.Set(ctx, p.store, key, d); err != nil {
			return fmt.Errorf("publish %s: %w", p.name, err)
		}
	}
	if _, err := catalog.SetName(ctx, p.store, p.name, d); err != nil {
		return fmt.Errorf("publish %s: %w", p.name, err)
	}
	return nil
}

func (p *publisher) result(m *blockmap.Map) *Result {
	info := m.Info()
	r := &Result{
		Name: p.name, Digest: info.Disk.String(), BlockMap: m.Digest().String(),
		SourceDigest: info.Source.String(), ChainID: info.ChainID.String(),
		DiskSize: info.Size, Chunks: m.Len(),
		NewChunks: p.newChunks.Load(), NewBytes: p.newBytes.Load(),
		FetchedBytes: p.fetched.Load(), LayersKnown: int(p.layersKnown.Load()), Layers: len(p.img.Layers),
	}
	seen := make(map[chunk.ID]bool, m.Len())
	for i := range m.Len() {
		if c := m.Chunk(i); !seen[c.ID] {
			seen[c.ID] = true
			r.StoredBytes += int64(c.Stored)
		}
	}
	return r
}

// unlessMissing turns the errors of a pointer that is not there, or leads
// nowhere, into nil: it will be set anew.
func unlessMissing(err error) error {
	if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, catalog.ErrPointer) {
		return nil
	}
	return err
}
