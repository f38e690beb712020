package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// A segment is a layer that the origin holds.
type segment struct {
	record
	plan *layout.Segment
}

// segments brings every layer of the image into the origin, large ones first.
func (p *publisher) segments(ctx context.Context) ([]*segment, error) {
	order := make([]int, len(p.img.Layers))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return p.img.Layers[order[a]].Size > p.img.Layers[order[b]].Size })
	out := make([]*segment, len(order))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(layersAtOnce)
	for _, i := range order {
		g.Go(func() error {
			s, err := p.segment(ctx, i)
			out[i] = s
			return err
		})
	}
	return out, g.Wait()
}

func (p *publisher) segment(ctx context.Context, i int) (*segment, error) {
	src := p.img.Layers[i]
	key := catalog.SegmentKey(origin.Digest(hashBytes(src.DiffID)), layout.Version, p.opts.Salt.ID())
	if p.opts.standard() {
		s, err := p.remembered(ctx, key, src.DiffID)
		if err != nil {
			return nil, err
		}
		if s != nil {
			p.layersKnown.Add(1)
			p.progress.known(i)
			return s, nil
		}
	}
	s, err := p.convert(ctx, i)
	if err != nil || !p.opts.standard() {
		return s, err
	}
	b, err := s.encode()
	if err != nil {
		return s, nil // too much to remember: the layer will be read again
	}
	if b, err = seal.LockRecord(p.opts.Salt, origin.Digest(hashBytes(src.DiffID)), layout.Version, b); err != nil {
		return nil, err
	}
	d, err := p.store.PutObject(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("store segment record: %w", err)
	}
	_, err = catalog.Set(ctx, p.store, key, d)
	return s, err
}

// remembered returns the segment of a layer that was published before, or nil
// if there is none or its chunks are not all there. A record that does not fit
// its layer counts as none.
func (p *publisher) remembered(ctx context.Context, key string, diffID v1.Hash) (*segment, error) {
	d, err := catalog.Get(ctx, p.store, key)
	if err != nil {
		return nil, unlessMissing(err)
	}
	b, err := p.store.GetObject(ctx, d, maxRecordBytes)
	if err != nil {
		return nil, context.Cause(ctx)
	}
	if b, err = seal.OpenRecord(p.opts.Salt, origin.Digest(hashBytes(diffID)), layout.Version, b); err != nil {
		return nil, nil
	}
	rec, err := decodeRecord(b)
	if err != nil || rec.Layer.DiffID != diffID {
		return nil, nil
	}
	plan, err := layout.PlanSegment(rec.Layer.Entries, p.opts.Params)
	if err != nil || int(plan.Chunks) != len(rec.Chunks) {
		return nil, nil
	}
	ok, err := p.present(ctx, len(rec.Chunks), func(i int) (chunk.ID, uint32) { return rec.Chunks[i].ID, rec.Chunks[i].Stored })
	if err != nil || !ok {
		return nil, err
	}
	return &segment{record: *rec, plan: plan}, nil
}

// convert reads a layer and stores its chunks: at once, or, if its files do not
// come in order, by reading it again into a temporary file.
func (p *publisher) convert(ctx context.Context, i int) (*segment, error) {
	s, err := p.stream(ctx, p.img.Layers[i])
	p.fetched.Add(p.layerRead[i].Swap(0))
	if errors.Is(err, errUnordered) {
		return p.spool(ctx, i)
	}
	if err == nil {
		p.progress.stored(i, int64(s.plan.Chunks)*int64(p.opts.Params.Chunk))
	}
	return s, err
}

// spool reads a layer as a whole before it stores chunks.
func (p *publisher) spool(ctx context.Context, i int) (*segment, error) {
	spool, err := temporary(p.opts.TempDir, "rivulet-layer-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = spool.Close() }()
	layer, err := p.img.Layers[i].Read(ctx, spool)
	p.fetched.Add(p.layerRead[i].Swap(0))
	if err != nil {
		return nil, err
	}
	plan, err := layout.PlanSegment(layer.Entries, p.opts.Params)
	if err != nil {
		return nil, err
	}
	chunks, err := p.pool.store(ctx, int(plan.Chunks), func(k int, buf []byte) error {
		return plan.ReadChunk(layer, uint32(k), buf)
	}, p.progress.storing(i, int64(plan.Chunks)*int64(p.opts.Params.Chunk)))
	if err != nil {
		return nil, err
	}
	return newSegment(layer, plan, chunks), nil
}

// newSegment makes a segment of what was stored. Its layer has no data.
func newSegment(l *flatten.Layer, plan *layout.Segment, chunks []stored) *segment {
	s := &segment{record: record{Layer: *l, Chunks: chunks}, plan: plan}
	s.Layer.Data = nil
	return s
}

// chainID is the chain ID of all layers, as the OCI image specification
// defines it.
func chainID(layers []*source.Layer) origin.Digest {
	var chain origin.Digest
	for i, l := range layers {
		if i == 0 {
			chain = origin.Digest(hashBytes(l.DiffID))
			continue
		}
		chain = origin.Digest(sha256.Sum256([]byte(chain.String() + " " + l.DiffID.String())))
	}
	return chain
}

// hashBytes returns the bytes of a SHA-256 that flatten has checked the form of.
func hashBytes(h v1.Hash) (sum [sha256.Size]byte) {
	if len(h.Hex) == 2*len(sum) {
		_, _ = hex.Decode(sum[:], []byte(h.Hex))
	}
	return sum
}
