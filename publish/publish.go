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
//  4. The block map is locked and stored, the image key wrapped for those who
//     may read, the map signed; then the pointers, the name last.
//  5. If another generation has become the active one meanwhile, the image is
//     carried there.
//
// Nothing is visible before it is whole, and everything but pointers is named
// by its content: a publisher that was killed leaves at most chunks that nobody
// points to, and run again it goes on where it stopped.
//
// What the origin remembers saves work, and is written by others. It is taken
// over only if it is signed by the publisher itself or by somebody whom it
// trusts; otherwise the work is done again.
package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

// Options of Image. With a salt, a signer, and either recipients or Open, it
// publishes an image under its own reference.
type Options struct {
	Salt     *seal.Salt                                                 // what chunks are sealed with; nil: OpenSalt returns it
	SaltID   blockmap.SaltID                                            // of the salt that OpenSalt returns; of Salt, may be zeros
	OpenSalt func(context.Context) (*seal.Salt, error)                  // called once, while what is known of the image is looked for; nothing is written before it has returned
	OldSalt  func(context.Context, blockmap.SaltID) (*seal.Salt, error) // salts of the same domain's earlier epochs, whose segments are sealed anew without their layers; nil: none
	Policy   seal.Policy                                                // how chunks are coded
	Level    zstd.EncoderLevel                                          // 0: seal.DefaultLevel

	Signer     *sign.Key        // signs what is published
	Trusted    []sign.PublicKey // publishers whose work is taken over, beside the signer's own
	Recipients []seal.Recipient // for whom the image key is wrapped
	Unwrappers []seal.Unwrapper // the publisher's own: to take over what it has locked before
	Open       bool             // do not lock the block map: whoever has it can read the image

	Generations generation.List // states that generation.Enter has just returned; nil: Image asks

	Name     string         // the name to give; "" derives one from the source
	Size     int64          // of the disk in bytes; 0 chooses, see layout.Image
	Source   source.Options // how to reach and read the source
	Params   layout.Params  // zero: layout.Default
	Frame    int            // frame size in bytes; 0: chunk.FrameSize
	TempDir  string         // for layers while they are cut; "": the system's
	Workers  int            // sealers; 0: one for each processor
	Puts     int            // sealed chunks under way to the origin; 0: DefaultPuts
	Sample   int            // chunks of each known layer whose presence is asked for; 0: all of them
	Progress func(Event)    // told of progress, from one goroutine at a time

	// Preview is called once the files of a disk that is new to the origin are known, beside
	// the rest of the work, again if that begins anew. Publishing ends after it has returned, though
	// the image can be found before. Its context ends if publishing fails. nil: nobody looks.
	Preview func(context.Context, *Preview)
	Keep    bool // keep what is put in TempDir for Preview, up to 512 MiB or a quarter of what is free: the origin answers late
}

// DefaultPuts is how many chunks are put at one time unless Options say otherwise.
const DefaultPuts = 32

// A Result tells what was published.
type Result struct {
	Name         string `json:"name"`
	Digest       string `json:"digest"`             // of the disk: the same for every publisher
	BlockMap     string `json:"block_map"`          // object that attaches the disk
	Previous     string `json:"previous,omitempty"` // block map that the name led to before, if to another one
	Profiled     bool   `json:"-"`                  // that one has profiles, which this one may inherit
	Made         bool   `json:"-"`                  // the store had no such image: this is a new block map
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

// ErrTooOften is returned (wrapped) when each generation that the image was
// published into was deleted before that was done.
var ErrTooOften = errors.New("generations are deleted faster than the image is published")

// attempts bounds the generations that one image is published into.
const attempts = 3

// Image publishes the image that srcs name (see source.Open) to an origin.
// Any number of calls may run at once, in one process or many.
func Image(ctx context.Context, place origin.Origin, srcs []string, o Options) (*Result, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	d, err := Open(ctx, srcs, o.Source, o.TempDir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Publish(ctx, place, o)
}

// A Draft is an image that was opened to be published. It is for one goroutine, and
// to be closed.
type Draft struct {
	srcs []string
	img  *source.Image
	read func(l *source.Layer, n int64) // by whom it is published
}

// Open opens the image that srcs name (see source.Open), so that a publisher knows
// what to ask of an origin before it has one. What is larger than memory should hold
// goes into tempDir; "" is the system's. The Progress of o is the Draft's own.
func Open(ctx context.Context, srcs []string, o source.Options, tempDir string) (*Draft, error) {
	d := &Draft{srcs: srcs}
	if o.TempDir = tempDir; tempDir == "" {
		o.TempDir = os.TempDir()
	}
	o.Progress = func(l *source.Layer, n int64) { d.read(l, n) }
	var err error
	if d.img, err = source.Open(ctx, srcs, o); err != nil {
		return nil, err
	}
	return d, nil
}

// Close closes the image.
func (d *Draft) Close() error { return d.img.Close() }

// Shortcut returns the name of the pointer that Publish begins with, in the
// generation that is published into: it leads to what the signer has published of
// these layers with that salt, on a disk of that size (see Options.Size).
func (d *Draft) Shortcut(salt blockmap.SaltID, size int64, signer sign.PublicKey) string {
	return catalog.ChainKey(chainID(d.img.Layers), layout.Version, salt, size, signer.ID())
}

// Publish is [Image] of an image that is open; o.Source has done its work. It can be
// called once.
func (d *Draft) Publish(ctx context.Context, place origin.Origin, o Options) (*Result, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	p := &publisher{place: place, opts: o}
	p.setImage(d.img)
	d.read = p.read
	var err error
	if p.name, err = imageName(o.Name, d.srcs, d.img); err != nil {
		return nil, err
	}
	p.progress = newProgress(o.Progress, len(d.img.Layers))
	for range attempts {
		m, err := p.publish(ctx)
		p.release(err != nil)
		if err == nil {
			return p.result(m), nil
		}
		if errors.Is(err, generation.ErrDeleted) {
			continue
		}
		if gone, stateErr := p.gone(ctx); stateErr != nil || !gone {
			return nil, err
		}
	}
	return nil, fmt.Errorf("publish %s: %w", p.name, ErrTooOften)
}

// publish publishes the image into the generation that is active now.
func (p *publisher) publish(ctx context.Context) (*blockmap.Map, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	var k *knownMap
	g, gctx := errgroup.WithContext(ctx) // a far store answers late
	g.Go(func() error { return p.openSalt(gctx) })
	g.Go(func() (err error) { k, err = p.known(gctx); return err })
	err := g.Wait()
	if err == nil {
		p.pool, err = newPool(&p.opts, p.store, &p.counters)
	}
	if err == nil && p.opts.Keep && p.opts.Preview != nil {
		p.pool.kept = newKept(p.opts.TempDir)
	}
	if err != nil {
		return nil, err
	}
	var m *blockmap.Map
	if k == nil {
		m, err = p.make(ctx)
	} else {
		m, err = p.adopt(ctx, k)
	}
	p.made = k == nil || m != k.Map
	if err != nil || k != nil && k.done && m == k.Map {
		return m, err
	}
	if err := p.point(ctx, m); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.profiled = p.hasProfiles(ctx, p.previous) })
	forward := generation.Forwarder{Origin: p.place}
	_, err = forward.Settle(ctx, p.name, m.Digest(), p.gen)
	wg.Wait()
	if err != nil {
		return nil, err
	}
	return m, nil
}

// enter chooses the generation to publish into.
func (p *publisher) enter(ctx context.Context) (err error) {
	l := p.opts.Generations
	if p.opts.Generations = nil; l == nil { // the next attempt asks
		if l, err = generation.Enter(ctx, p.place); err != nil {
			return err
		}
	}
	p.gen = l.Active()
	p.store = p.place.Generation(p.gen)
	p.from = []origin.GenerationID{p.gen}
	for _, g := range l.Readable() {
		if g < p.gen && l.State(g) == generation.StateRetired {
			p.from = append(p.from, g)
		}
	}
	return nil
}

// openSalt sees to it that there is a salt, the one that was looked for.
func (p *publisher) openSalt(ctx context.Context) (err error) {
	if p.opts.Salt != nil {
		return nil
	}
	salt, err := p.opts.OpenSalt(ctx)
	if err != nil {
		return err
	}
	if salt.ID() != p.opts.SaltID {
		return errors.New("publish: the salt is another one than was looked for")
	}
	p.opts.Salt = salt
	return nil
}

// gone reports whether the generation that was published into cannot be
// published into or carried on from any more.
func (p *publisher) gone(ctx context.Context) (bool, error) {
	if p.gen == 0 {
		return false, nil
	}
	l, err := generation.Load(ctx, p.place)
	if err != nil {
		return false, err
	}
	return !l.State(p.gen).Readable(), nil
}

func (o *Options) complete() error {
	switch {
	case o.Salt == nil && o.OpenSalt == nil:
		return errors.New("publish: no salt to seal chunks with")
	case o.Signer == nil:
		return errors.New("publish: no key to sign with")
	case !o.Open && len(o.Recipients) == 0:
		return errors.New("publish: nobody to lock the image for")
	}
	if o.Salt != nil {
		o.SaltID = o.Salt.ID()
	}
	if o.Params == (layout.Params{}) {
		o.Params = layout.Default
	}
	if o.Frame == 0 {
		o.Frame = min(chunk.FrameSize, o.Params.Chunk)
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Puts == 0 {
		o.Puts = DefaultPuts
	}
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
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

// trusted returns the keys of those whose work is taken over, the publisher's
// own first.
func (o *Options) trusted() []sign.PublicKey {
	own := o.Signer.Public()
	keys := []sign.PublicKey{own}
	for _, k := range o.Trusted {
		if k.String() != own.String() {
			keys = append(keys, k)
		}
	}
	return keys
}

type publisher struct {
	place    origin.Origin
	opts     Options
	img      *source.Image
	name     string
	progress *progress
	counters

	// Of the attempt under way:
	gen   origin.GenerationID   // generation that is published into
	store origin.Store          // the same
	from  []origin.GenerationID // generations that work is taken over from: gen, and older ones, newest first
	pool  *pool
	meta  *sparse // the file system's own blocks; nil before they are made

	previewing *previewing    // nil: nobody looks, or not yet
	layerRead  []atomic.Int64 // bytes of each layer that its reader told of

	previous origin.Digest // where the name led before any attempt; zeros: nowhere
	profiled bool          // that image has profiles
	made     bool          // there was no such block map
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

// make does the work of an image that the origin does not know.
func (p *publisher) make(ctx context.Context) (*blockmap.Map, error) {
	segments, err := p.segments(ctx)
	if err != nil {
		return nil, err
	}
	return p.disk(ctx, segments)
}

func (p *publisher) chainKey(signer sign.PublicKey) string {
	return catalog.ChainKey(p.chainID(), layout.Version, p.opts.SaltID, p.opts.Size, signer.ID())
}

// shortcuts returns the names of the pointers that lead to an image, but for its
// name.
func (p *publisher) shortcuts(m *blockmap.Map) []string {
	info := m.Info()
	keys := []string{catalog.DigestKey(info.Source), catalog.DigestKey(info.Disk)}
	if p.opts.standard() {
		keys = append(keys, p.chainKey(p.opts.Signer.Public()))
	}
	return keys
}

// point makes the image findable, by its name last.
func (p *publisher) point(ctx context.Context, m *blockmap.Map) error {
	d := m.Digest()
	g, gctx := errgroup.WithContext(ctx)
	for _, key := range p.shortcuts(m) {
		g.Go(func() error {
			_, err := catalog.Set(gctx, p.store, key, d)
			return err
		})
	}
	var older origin.Digest
	g.Go(func() error { older = p.olderImage(gctx); return nil })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("publish %s: %w", p.name, err)
	}
	was, _, err := catalog.Replace(ctx, p.store, catalog.NameKey(p.name), d)
	if err != nil {
		return fmt.Errorf("publish %s: %w", p.name, err)
	}
	if was == (origin.Digest{}) {
		was = older
	}
	if p.previous == (origin.Digest{}) {
		p.previous = was
	}
	return nil
}

// olderImage returns where the name leads in an older generation, from which it was
// not carried yet. Nothing depends on it.
func (p *publisher) olderImage(ctx context.Context) origin.Digest {
	for _, g := range p.from[1:] {
		if d, err := catalog.Get(ctx, p.place.Generation(g), catalog.NameKey(p.name)); err == nil {
			return d
		}
	}
	return origin.Digest{}
}

func (p *publisher) result(m *blockmap.Map) *Result {
	info := m.Info()
	r := &Result{
		Name: p.name, Digest: info.Disk.String(), BlockMap: m.Digest().String(),
		SourceDigest: info.Source.String(), ChainID: info.ChainID.String(),
		DiskSize: info.Size, Chunks: m.Len(),
		NewChunks: p.newChunks.Load(), NewBytes: p.newBytes.Load(),
		FetchedBytes: p.fetched.Load(), LayersKnown: int(p.layersKnown.Load()), Layers: len(p.img.Layers),
		Made: p.made,
	}
	if p.previous != (origin.Digest{}) && p.previous != m.Digest() {
		r.Previous, r.Profiled = p.previous.String(), p.profiled
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
