package fsck

import (
	"context"
	"errors"
	"slices"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
)

// packed is a pointer to a start pack. It is advice, and worth nothing without one of its
// parts: what cannot be repaired is dropped as a whole.
type packed struct {
	key   string
	image origin.Digest
	parts []origin.Digest
	value []byte
	gone  bool // it was dropped
}

// packPointer reads what a pointer to a start pack leads to.
func (g *one) packPointer(ctx context.Context, key string) error {
	value, err := g.store.GetPointer(ctx, key)
	if errors.Is(err, chunk.ErrNotFound) {
		return nil // removed meanwhile
	}
	if err != nil && !errors.Is(err, origin.ErrCorrupt) {
		return err
	}
	p := &packed{key: key, value: value}
	if err == nil {
		p.image, _, err = catalog.ParsePackKey(key)
	}
	if err == nil {
		p.parts, err = catalog.ParsePack(value)
	}
	if err != nil {
		g.dropPointer(ctx, Problem{Generation: g.id, Kind: Damaged, What: "pointer", Name: key, Reason: err.Error()}, value)
		return nil
	}
	g.packPointers = append(g.packPointers, p)
	for _, d := range p.parts {
		g.packs[d] = append(g.packs[d], p)
	}
	return nil
}

// rememberPack notes whether the object of a start pack's part is one.
func (g *one) rememberPack(d origin.Digest, b []byte) {
	if g.packs[d] == nil {
		return
	}
	if _, err := pack.ParseIndex(b); err != nil {
		g.unfit[d] = err
	}
}

// checkPacks checks that pointers to start packs lead from an image that is there to packs
// that are there.
func (g *one) checkPacks(ctx context.Context) error {
	for _, p := range g.packPointers {
		if p.gone {
			continue
		}
		if !g.objects[p.image] {
			g.dropPointer(ctx, Problem{Generation: g.id, Kind: Dangling, What: "pointer", Name: p.key, Reason: "no image " + p.image.String()}, p.value)
			continue
		}
		for _, d := range p.parts {
			problem := Problem{Generation: g.id, What: "object", Name: d.String(), Reason: "a part of the start pack that " + p.key + " leads to"}
			if err := g.unfit[d]; err != nil {
				problem.Kind, problem.Reason = Damaged, problem.Reason+": "+err.Error()
			} else if g.objects[d] || !g.packStays(ctx, p) { // others may have put another one
				continue
			} else {
				problem.Kind, problem.Repaired = Missing, g.bringObject(ctx, d)
			}
			if !problem.Repaired {
				g.dropPack(ctx, &problem, d)
			}
			g.problem(problem)
		}
	}
	return ctx.Err()
}

// packStays reports whether a pointer leads where it led.
func (g *one) packStays(ctx context.Context, p *packed) bool {
	value, err := g.store.GetPointer(ctx, p.key)
	return err == nil && string(value) == string(p.value)
}

// dropPack drops the start packs that have a part which is of no use.
func (g *one) dropPack(ctx context.Context, problem *Problem, d origin.Digest) {
	if len(g.packs[d]) == 0 || !g.opt.Repair {
		return
	}
	for _, p := range g.packs[d] {
		if p.gone {
			continue
		}
		if err := g.store.SwapPointer(ctx, p.key, p.value, nil); err != nil {
			problem.Reason += "; not dropped: " + err.Error()
			return
		}
		p.gone = true
	}
	for _, p := range g.packs[d] {
		for _, part := range p.parts {
			if !slices.ContainsFunc(g.packs[part], func(other *packed) bool { return !other.gone }) {
				_ = g.store.RemoveObject(ctx, part) // else it goes with its generation
			}
		}
	}
	problem.Repaired = true
	problem.Reason += "; dropped, as 'rivulet profile pack' makes it again"
}
