package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

// remembered is a pointer to profiles. They are advice, so what is wrong with them
// makes no image unsound, and what cannot be repaired is dropped.
type remembered struct {
	key      string
	image    origin.Digest
	workload string
	versions []origin.Digest
}

const dropped = "; dropped, as starts make it again"

// profilePointer reads which profiles a pointer leads to.
func (g *one) profilePointer(ctx context.Context, key string) error {
	value, err := g.store.GetPointer(ctx, key)
	if errors.Is(err, chunk.ErrNotFound) {
		return nil // removed meanwhile
	}
	if err != nil && !errors.Is(err, origin.ErrCorrupt) {
		return err
	}
	r := &remembered{key: key}
	if err == nil {
		r.image, r.workload, err = catalog.ParseProfileKey(key)
	}
	if err == nil {
		r.versions, err = catalog.ParseProfiles(value)
	}
	if err != nil {
		g.dropPointer(ctx, Problem{Generation: g.id, Kind: Damaged, What: "pointer", Name: key, Reason: err.Error()}, value)
		return nil
	}
	g.profiles = append(g.profiles, r)
	for _, d := range r.versions {
		g.versions[d] = r
	}
	return nil
}

// dropPointer reports a pointer to profiles, and removes it if it is still as it
// was read: nil, if it was corrupt.
func (g *one) dropPointer(ctx context.Context, p Problem, value []byte) {
	if value == nil {
		value = origin.Damaged()
	}
	if p.Repaired = g.opt.Repair && g.store.SwapPointer(ctx, p.Name, value, nil) == nil; p.Repaired {
		p.Reason += dropped
	}
	g.problem(p)
}

// remember notes what the object of a profile's version says, if it is one.
func (g *one) remember(d origin.Digest, b []byte) {
	r := g.versions[d]
	if r == nil {
		return
	}
	p, err := profile.Parse(b)
	if err == nil && (p.Image != r.image || p.Workload != r.workload) {
		err = fmt.Errorf("it is of image %v, workload %q: %w", p.Image, p.Workload, profile.ErrMismatch)
	}
	if err != nil {
		g.unfit[d] = err
	}
}

// checkProfiles checks that pointers to profiles lead from an image that is there to
// profiles of it.
func (g *one) checkProfiles(ctx context.Context) error {
	for _, r := range g.profiles {
		if !g.objects[r.image] {
			p := Problem{Generation: g.id, Kind: Dangling, What: "pointer", Name: r.key, Reason: "no image " + r.image.String()}
			if value, err := g.store.GetPointer(ctx, r.key); err == nil {
				g.dropPointer(ctx, p, value)
			}
			continue
		}
		for _, d := range slices.Clone(r.versions) {
			p := Problem{Generation: g.id, What: "object", Name: d.String(), Reason: "a profile that " + r.key + " leads to"}
			switch err := g.unfit[d]; {
			case err != nil:
				p.Kind, p.Reason = Damaged, p.Reason+": "+err.Error()
			case g.objects[d] || !g.leadsTo(ctx, r, d): // others may have added to it, and removed the oldest
				continue
			default:
				p.Kind, p.Repaired = Missing, g.bringObject(ctx, d)
			}
			if !p.Repaired {
				g.dropVersion(ctx, &p, d)
			}
			g.problem(p)
		}
	}
	return ctx.Err()
}

// leadsTo reports whether a pointer still leads to a version.
func (g *one) leadsTo(ctx context.Context, r *remembered, d origin.Digest) bool {
	value, err := g.store.GetPointer(ctx, r.key)
	return err == nil && bytes.Contains(value, catalog.Value(d))
}

// dropVersion takes a version that is of no use out of the pointer that leads to
// it.
func (g *one) dropVersion(ctx context.Context, p *Problem, d origin.Digest) {
	r := g.versions[d]
	if r == nil || !g.opt.Repair {
		return
	}
	if err := catalog.DropProfile(ctx, g.store, r.image, r.workload, d); err != nil {
		p.Reason += "; not dropped: " + err.Error()
		return
	}
	r.versions = slices.DeleteFunc(r.versions, func(v origin.Digest) bool { return v == d })
	p.Repaired = true
	p.Reason += dropped
}
