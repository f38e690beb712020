package publish

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

// statsAtOnce bounds the questions to the origin under way at one time.
const statsAtOnce = 32

// A knownMap is the block map of an image that was published before, and what was
// found out about it.
type knownMap struct {
	*blockmap.Map               // unlocked
	key           seal.ImageKey // zeros if it was never locked
	at            origin.GenerationID
	signer        sign.PublicKey
	said          *said
	done          bool // it is published as it would be now: pointers, name, and all
}

// known returns an image with these layers, in the generation that is published
// into or an older one, if somebody trusted has published one and all of its
// chunks are there; or nil.
func (p *publisher) known(ctx context.Context) (*knownMap, error) {
	if !p.opts.standard() {
		return nil, nil
	}
	for _, g := range p.from {
		for _, signer := range p.opts.trusted() {
			k, err := p.knownBy(ctx, g, signer)
			if err != nil || k != nil {
				return k, err
			}
		}
	}
	return nil, nil
}

// knownBy returns what signer has published in generation g, or nil. What is not
// as it should be counts as absent: it can be made again.
//
// A far origin answers late, so all is asked for as soon as it is known what to
// ask: of the block map, and what is said of it, when its digest is known; and of
// its chunks when it is read.
func (p *publisher) knownBy(ctx context.Context, g origin.GenerationID, signer sign.PublicKey) (*knownMap, error) {
	store := p.place.Generation(g)
	d, err := catalog.Get(ctx, store, p.chainKey(signer))
	if err != nil {
		return nil, unlessMissing(err)
	}
	k := &knownMap{at: g, signer: signer}
	var unsaid, unread error
	var pointed, settled bool
	var wg sync.WaitGroup
	wg.Go(func() { k.said, unsaid = p.gather(ctx, store, d) })
	wg.Go(func() { k.Map, pointed, unread = p.load(ctx, store, d) })
	wg.Go(func() {
		forward := generation.Forwarder{Origin: p.place}
		settled = forward.Settled(ctx, p.name, d, g)
	})
	wg.Wait()
	if k.Map == nil || unsaid != nil || unread != nil {
		return nil, errors.Join(context.Cause(ctx), unread)
	}
	k.done = g == p.gen && pointed && settled
	if _, err := sign.Require(ctx, k.Map, k.said, signer); err != nil {
		return nil, context.Cause(ctx)
	}
	if k.Map, k.key, err = seal.UnlockKey(ctx, k.Map, k.said, p.opts.Unwrappers...); err != nil {
		return nil, context.Cause(ctx)
	}
	return k, nil
}

// load returns the block map of digest d, locked, if it is one of this image and
// its chunks are there, or nil; and whether all short cuts lead to it. The error
// is one of asking for chunks.
func (p *publisher) load(ctx context.Context, store origin.Store, d origin.Digest) (m *blockmap.Map, pointed bool, err error) {
	m, err = catalog.Load(ctx, store, d)
	if err != nil {
		return nil, false, nil
	}
	if info := m.Info(); info.SaltID != p.opts.SaltID || info.ChainID != p.chainID() || len(info.Layers) != len(p.img.Layers) || info.Layout != layout.Version || p.opts.Size != 0 && info.Size != p.opts.Size {
		return nil, false, nil // a pointer that leads astray
	}
	var wg sync.WaitGroup
	wg.Go(func() { pointed = p.pointed(ctx, store, m) })
	there, err := p.present(ctx, store, m.Len(), p.opts.Sample*len(p.img.Layers), func(i int) (chunk.ID, uint32) {
		c := m.Chunk(i)
		return c.ID, c.Stored
	})
	wg.Wait()
	if err != nil || !there {
		return nil, false, err
	}
	return m, pointed, nil
}

// pointed reports whether all short cuts of an image lead to it.
func (p *publisher) pointed(ctx context.Context, store origin.Pointers, m *blockmap.Map) bool {
	g, ctx := errgroup.WithContext(ctx)
	for _, key := range p.shortcuts(m) {
		g.Go(func() error {
			d, err := catalog.Get(ctx, store, key)
			if err == nil && d != m.Digest() {
				err = catalog.ErrPointer
			}
			return err
		})
	}
	return g.Wait() == nil
}

// adopt makes a known image one of the generation that is published into, for
// the recipients and with the configuration of this publication.
func (p *publisher) adopt(ctx context.Context, k *knownMap) (*blockmap.Map, error) {
	if k.at != p.gen {
		forward := generation.Forwarder{Origin: p.place}
		if _, err := forward.Forward(ctx, k.Digest(), k.at, p.gen); err != nil {
			return nil, err
		}
	}
	p.layersKnown.Store(int64(len(p.img.Layers)))
	for i := range p.img.Layers {
		p.progress.known(i)
	}
	info := k.Info()
	same := info.Source == origin.Digest(hashBytes(p.img.Digest)) && string(info.Config) == string(p.img.Config)
	wasOpen := info.Lock.Kind == blockmap.LockOpen
	if !same || wasOpen != p.opts.Open {
		info.Source, info.Config = origin.Digest(hashBytes(p.img.Digest)), p.img.Config
		info.Layers = slices.Clone(info.Layers)
		for i := range info.Layers { // the same layers, maybe compressed otherwise
			info.Layers[i].Compressed, info.Layers[i].CompressedSize = origin.Digest(hashBytes(p.img.Layers[i].Digest)), p.img.Layers[i].Size
		}
		chunks := make([]blockmap.Chunk, k.Len())
		for i := range chunks {
			chunks[i] = k.Chunk(i)
		}
		return p.storeMap(ctx, &info, chunks)
	}
	if !wasOpen {
		if _, err := seal.Grant(ctx, k.Map, k.key, p.opts.Recipients, k.said); err != nil {
			return nil, err
		}
	}
	if k.signer.String() == p.opts.Signer.Public().String() {
		return k.Map, nil
	}
	return k.Map, p.sign(ctx, k.Map, k.said)
}

// present reports whether store holds n chunks, each of its right size. If sample
// is not 0, only about so many of them are asked for, spread evenly: what a
// signed block map or record names was there when it was signed.
func (p *publisher) present(ctx context.Context, store chunk.Prober, n, sample int, at func(int) (chunk.ID, uint32)) (bool, error) {
	var missing atomic.Bool
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(statsAtOnce)
	step := 1
	if sample > 0 {
		step = max(1, (n+sample-1)/sample)
	}
	for i := 0; i < n && !missing.Load() && ctx.Err() == nil; i += step {
		id, want := at(i)
		if want == 0 {
			continue
		}
		g.Go(func() error {
			size, err := store.Stat(ctx, id)
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

// hasProfiles reports whether one of the generations that work is taken over from has
// a profile of an image. Nothing depends on it.
func (p *publisher) hasProfiles(ctx context.Context, image origin.Digest) bool {
	if image == (origin.Digest{}) {
		return false
	}
	var found atomic.Bool
	var wg sync.WaitGroup
	for _, g := range p.from {
		wg.Go(func() {
			_ = p.place.Generation(g).ListPointers(ctx, catalog.ProfilePrefix(image), func(string) error {
				found.Store(true)
				return errFound
			})
		})
	}
	wg.Wait()
	return found.Load()
}

// errFound ends a listing at what was looked for.
var errFound = errors.New("found")
