package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A Query asks for a published image, of which a Spec can then be made. Store,
// Identities and Required are as in Spec.
type Query struct {
	Store string `json:"store"`
	// Image is a name or a digest, as in Spec; or Chain is given.
	Image string `json:"image,omitempty"`
	// Chain is the chain ID of the image's layers: any image that has these will do.
	Chain      string   `json:"chain,omitempty"`
	Identities []string `json:"identities,omitempty"`
	Required   []string `json:"required,omitempty"`
	// Soon says that what is found is going to be attached right after, with these Workload,
	// Neighbours, Profile and Fill, and the Query's Store, Identities and Required: its disk is opened,
	// and reading ahead of its start begins. Image must then be the digest of an image or a disk.
	// nil: it is only looked for.
	Soon *Spec `json:"soon,omitempty"`
}

func (q *Query) spec() (*Spec, error) {
	if (q.Image == "") == (q.Chain == "") {
		return nil, SpecErrorf("find: either an image or a chain ID must be given")
	}
	s := &Spec{Image: q.Image + q.Chain, Store: q.Store, Where: "nowhere", Identities: q.Identities, Required: q.Required}
	if q.Soon != nil {
		s.Workload, s.Neighbours, s.Profile, s.Fill = q.Soon.Workload, q.Soon.Neighbours, q.Soon.Profile, q.Soon.Fill
		if _, isDigest := catalog.ParseRef(q.Image); !isDigest {
			return nil, SpecErrorf("find %q to attach it soon: want a digest", q.Image)
		}
	}
	return s, s.check()
}

// Found is a published image.
type Found struct {
	Digest string   `json:"digest"` // of the block map
	Disk   string   `json:"disk"`   // digest of the disk
	Chain  string   `json:"chain"`  // ID
	Layers []string `json:"layers"` // diff IDs, lowest first
	Size   int64    `json:"size"`   // of the disk, bytes
	Locked bool     `json:"locked"` // whether it takes an identity to read it
}

// Find looks for an image that is vouched for as q asks, and attaches nothing. None
// is chunk.ErrNotFound. With q.Soon, one that cannot be opened is an error.
func (h *Host) Find(ctx context.Context, q Query) (Found, error) {
	spec, err := q.spec()
	if err != nil {
		return Found{}, err
	}
	r, err := h.reader(spec)
	if err != nil {
		return Found{}, err
	}
	src, err := h.source(ctx, q.Store)
	if err != nil {
		return Found{}, err
	}
	if q.Soon != nil {
		return h.findSoon(ctx, src, spec)
	}
	var i *generation.Image
	if q.Chain != "" {
		i, err = r.findChain(ctx, src.View, q.Chain)
	} else {
		i, err = r.Find(ctx, src.View, q.Image, false)
	}
	if err != nil {
		return Found{}, err
	}
	h.recent.add(sought{q.Store, i.Map.Digest().String()})
	return found(i.Map), nil
}

// recentlyFound remembers the block maps that Find has just found: who then attaches one of
// them is spared another look for what its digest means, three round trips of a far
// store. That it is still there, attaching finds out anyway. The zero value is ready.
type recentlyFound struct {
	mu    sync.Mutex
	until map[sought]time.Time
}

const (
	recentTime = 2 * time.Minute
	maxRecent  = 256
)

func (r *recentlyFound) add(s sought) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.until) >= maxRecent || r.until == nil {
		r.until = make(map[sought]time.Time)
	}
	r.until[s] = time.Now().Add(recentTime)
}

func (r *recentlyFound) has(s sought) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.until[s])
}

// findChain finds an image by its chain ID, signed as was asked.
func (r *Reader) findChain(ctx context.Context, v *generation.View, chain string) (*generation.Image, error) {
	want, err := origin.ParseDigest(chain)
	if err != nil {
		return nil, SpecErrorf("find: chain ID: %w", err)
	}
	list, err := v.Chain(ctx, want)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, d := range list {
		i, err := r.Find(ctx, v, d.String(), false)
		if err == nil && i.Map.Info().ChainID == want {
			return i, nil
		}
		if err == nil { // whoever can write pointers must not choose what a chain ID means
			err = fmt.Errorf("chain %s: block map %v has another: %w", chain, d, chunk.ErrNotFound)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func found(m *blockmap.Map) Found {
	info := m.Info()
	f := Found{Digest: m.Digest().String(), Disk: m.DiskDigest().String(), Chain: info.ChainID.String(), Size: info.Size, Locked: m.Locked()}
	for _, l := range info.Layers {
		f.Layers = append(f.Layers, l.DiffID.String())
	}
	return f
}
