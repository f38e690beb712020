package fsck

import (
	"context"
	"strings"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
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

// dropShortcut removes a pointer that leads nowhere and that publishing makes
// again: any but a name.
func (g *one) dropShortcut(ctx context.Context, name string, d origin.Digest) bool {
	return g.opt.Repair && !strings.HasPrefix(name, catalog.NameKey("")) && g.store.SwapPointer(ctx, name, catalog.Value(d), nil) == nil
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
