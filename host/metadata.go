package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
)

// maxCovered bounds the chunks whose reads wait for a metadata object.
const maxCovered = 4096

// newMetadata returns the fetch of an image's metadata object, not begun; nil if it has
// none. The caller closes it.
func newMetadata(image *generation.Image, log *slog.Logger) *pack.Fetch {
	d := image.Map.Info().Metadata
	if d == (origin.Digest{}) {
		return nil
	}
	var covers []chunk.ID
	for _, c := range pack.Outside(image.Map) {
		if len(covers) == maxCovered {
			break
		}
		covers = append(covers, c.ID)
	}
	return pack.NewFetch(covers, func(ctx context.Context) ([]byte, error) {
		b, err := image.Store().GetObject(ctx, d, pack.MaxMetadataObject)
		if err != nil {
			return nil, fmt.Errorf("metadata object %v of image %v: %w", d, image.Map.Digest(), err)
		}
		return b, nil
	}, log)
}

// openPacked opens an image, and has its metadata object fetched as soon as its block map
// is there, beside what unlocks it; where there is a cache, if that lacks its beginning. claim is told
// of the image. The caller closes what is fetched, nil if nothing is.
func (h *Host) openPacked(ctx context.Context, src *Source, r *Reader, d origin.Digest, claim *claiming) (*Image, *pack.Fetch, error) {
	var metadata *pack.Fetch
	image, err := r.attach(ctx, src.View, d, func(i *generation.Image) {
		claim.image <- i
		if src.Near {
			return
		}
		if metadata = newMetadata(i, h.log); metadata != nil {
			metadata.StartUnless(func(ctx context.Context) bool { return h.caches(ctx, i.Map) })
		}
	})
	if err != nil && metadata != nil {
		metadata.Close()
	}
	return image, metadata, err
}

// caches reports whether there is a cache that has the first chunk of m, with which the metadata begin.
func (h *Host) caches(ctx context.Context, m *blockmap.Map) bool {
	if h.cfg.Cache == nil || m.Len() == 0 {
		return false
	}
	_, err := h.cfg.Cache.Reader(nil, chunk.None{}).ReadChunk(ctx, m.Chunk(0).ID, make([]byte, 1), 0)
	return err == nil
}

// errPacked is why a cache gets no request for a chunk.
var errPacked = errors.New("it comes with others, in one object")

// unpacked makes requests for the chunks that do not come with the metadata object:
// a cache has the others brought by who asks for them, and so gets them out of it.
type unpacked struct {
	origin.Requester
	metadata *pack.Fetch
}

// Request implements [origin.Requester].
func (u unpacked) Request(ctx context.Context, id chunk.ID) (origin.Request, error) {
	if u.metadata.Has(id) {
		return origin.Request{}, errPacked
	}
	return u.Requester.Request(ctx, id)
}
