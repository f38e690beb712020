package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sort"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
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
	diffID := p.img.Layers[i].DiffID
	if p.opts.standard() {
		s, err := p.remembered(ctx, diffID)
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
	return s, p.remember(ctx, diffID, s)
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
	chunks, err := p.pool.store(ctx, int(plan.Chunks), func(_ context.Context, k int, buf []byte) error {
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
