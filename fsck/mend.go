package fsck

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
)

// mendChunk puts a chunk there, out of the first place that has it right, and
// reports whether it could. What is there with the right size and wrong bytes
// would stay, so it is removed first: only when good bytes are at hand.
func (g *one) mendChunk(ctx context.Context, id chunk.ID, stored int64) bool {
	if !g.opt.Repair {
		return false
	}
	buf := make([]byte, blockmap.MaxStored(chunk.MaxSize)+1)
	var donors []fetch
	for _, donor := range g.donors {
		donors = append(donors, donor.Fetch)
	}
	if g.opt.Cache != nil {
		donors = append(donors, g.opt.Cache.ReadChunk)
	}
	for _, donor := range donors {
		b, err := readChunk(ctx, donor, id, stored, buf)
		if err != nil {
			continue
		}
		if g.store.Remove(ctx, id) != nil {
			return false
		}
		_, err = g.store.Put(ctx, id, b)
		return err == nil
	}
	return false
}

// mendObject is mendChunk for an object, which it returns. there says that
// something of its name is there.
func (g *one) mendObject(ctx context.Context, d origin.Digest, there bool) ([]byte, bool) {
	if !g.opt.Repair {
		return nil, false
	}
	for _, donor := range g.donors {
		b, err := donor.GetObject(ctx, d, origin.MaxObjectBytes)
		if err != nil {
			continue
		}
		if there && g.store.RemoveObject(ctx, d) != nil {
			return nil, false
		}
		_, err = g.store.PutObject(ctx, b)
		return b, err == nil
	}
	return nil, false
}

// makeMetadata makes the metadata object of an image again out of its chunks, if it is
// one of those that can be (see pack.Metadata), and reports whether it is there then.
// there says that something of its name is.
func (g *one) makeMetadata(ctx context.Context, m *blockmap.Map, there bool) bool {
	if !g.opt.Repair {
		return false
	}
	buf := make([]byte, blockmap.MaxStored(chunk.MaxSize)+1)
	b, err := pack.Metadata(m, func(c *blockmap.Chunk) ([]byte, error) {
		return readChunk(ctx, g.store.Fetch, c.ID, int64(c.Stored), buf)
	})
	want := m.Info().Metadata
	if err != nil || want.Check(b) != nil || there && g.store.RemoveObject(ctx, want) != nil {
		return false
	}
	if _, err := g.store.PutObject(ctx, b); err != nil {
		return false
	}
	g.objects[want] = true
	return true
}

// isName reports whether a pointer is a name: what it says, nobody else knows.
func isName(pointer string) bool { return strings.HasPrefix(pointer, catalog.NameKey("")) }

// dropShortcut removes a pointer that leads nowhere and that publishing makes
// again: any but a name.
func (g *one) dropShortcut(ctx context.Context, name string, d origin.Digest) bool {
	return g.opt.Repair && !isName(name) && g.store.SwapPointer(ctx, name, catalog.Value(d), nil) == nil
}

// leadsElsewhere returns the object that a damaged pointer leads to in the other
// origin, if that is here, or could be brought. Other generations are not asked: a
// name may have been given to another image since.
func (g *one) leadsElsewhere(ctx context.Context, name string) origin.Digest {
	for _, donor := range g.checker.donors {
		d, err := catalog.Get(ctx, donor, name)
		if err == nil && g.opt.Repair && (g.objects[d] || g.bringObject(ctx, d)) {
			return d
		}
	}
	return origin.Digest{}
}

// mendPointers makes damaged pointers lead to where they lead in the other origin,
// last, when that is sound. Others that publishing makes again are removed.
func (g *one) mendPointers(ctx context.Context) error {
	for i := range g.report.Problems {
		p := &g.report.Problems[i]
		d, damaged := g.damaged[p.Name]
		switch {
		case p.Generation != g.id || p.What != "pointer" || !damaged || !g.opt.Repair:
		case d != origin.Digest{} && g.sound(d):
			if p.Repaired = g.replaceDamaged(ctx, p.Name, catalog.Value(d)); p.Repaired {
				p.Reason += "; now it leads to " + d.String() + ", as in the other store"
			}
		case !isName(p.Name):
			if p.Repaired = g.replaceDamaged(ctx, p.Name, nil); p.Repaired {
				p.Reason += "; removed, as publishing makes it again"
			}
		}
	}
	return ctx.Err()
}

// sound reports whether an object, and all that it needs as an image, is here.
func (g *one) sound(d origin.Digest) bool {
	return !slices.ContainsFunc(g.report.Problems, func(p Problem) bool {
		return p.Generation == g.id && !p.Repaired && (p.Needed == d.String() || p.Name == d.String())
	})
}

// replaceDamaged sets a damaged pointer, or removes it if value is nil, unless it is
// sound by now.
func (g *one) replaceDamaged(ctx context.Context, name string, value []byte) bool {
	old, err := g.store.GetPointer(ctx, name)
	if errors.Is(err, origin.ErrCorrupt) {
		old = origin.Damaged()
	} else if _, now := catalog.Get(ctx, g.store, name); err != nil || !errors.Is(now, catalog.ErrPointer) {
		return false
	}
	return g.store.SwapPointer(ctx, name, old, value) == nil
}

// mendAttachments attaches what other places say of an object, and reports
// whether they can be listed then.
func (g *one) mendAttachments(ctx context.Context, d origin.Digest, kind string) bool {
	if !g.opt.Repair {
		return false
	}
	for _, donor := range g.donors {
		_ = donor.ListAttachments(ctx, d, kind, func(data []byte) error { return g.store.Attach(ctx, d, kind, data) })
	}
	return g.store.ListAttachments(ctx, d, kind, func([]byte) error { return nil }) == nil
}
