package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// maxChunk is the largest stored chunk.
const maxChunk = chunk.MaxStoredSize

// A Store is one generation of an [Origin].
type Store struct {
	pointers
	id origin.GenerationID

	loading chan struct{} // whoever has put something in reads all indexes

	mu      sync.Mutex                      // guards what follows
	loaded  time.Time                       // when the last reading of all indexes began
	sources map[string]*source              // indexes read, by tag
	places  map[chunk.ID]location           // of all chunks that are known
	blobs   map[origin.Digest]*blob         // packs that are known
	objects map[origin.Digest]v1.Descriptor // manifests of objects that are known
	filling *filling                        // the pack that Put adds to; nil: none
	waiting []*filling                      // full ones that are not all stored yet
	pending map[chunk.ID]*filling           // chunks in filling and waiting
}

// A source is an index of the registry.
type source struct {
	read bool // what it says is known
	gone bool // it was deleted: what it says does not hold
}

// A blob is a pack as the registry is known to have it.
type blob struct {
	pack
	seen    bool // it was asked for, and is there
	gone    bool // it is not there
	refused bool // it could not be mounted
}

// A location is where a chunk lies, and who says so.
type location struct {
	blob     *blob
	from     *source
	off, len uint32
}

func (l location) valid() bool { return l.blob != nil && !l.blob.gone && !l.from.gone }

func newStore(c *client, id origin.GenerationID) *Store {
	s := &Store{id: id, loading: make(chan struct{}, 1)}
	s.pointers = pointers{client: c, prefix: generationPrefix(id), generation: id.String()}
	s.reset()
	return s
}

// reset forgets all that is known of the registry, and what was not stored.
func (s *Store) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = time.Time{}
	s.sources = make(map[string]*source)
	s.places = make(map[chunk.ID]location)
	s.blobs = make(map[origin.Digest]*blob)
	s.objects = make(map[origin.Digest]v1.Descriptor)
	s.pending = make(map[chunk.ID]*filling)
	for _, f := range s.waiting {
		f.drop()
	}
	if s.filling != nil {
		s.filling.drop()
	}
	s.filling, s.waiting = nil, nil
}

// known returns the location of a chunk, if it is known.
func (s *Store) known(id chunk.ID) (location, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.places[id]
	return l, l.valid()
}

// find returns the location of a chunk. If it is not known, it asks the
// registry for indexes that came since.
func (s *Store) find(ctx context.Context, id chunk.ID) (location, error) {
	begun := time.Now()
	l, ok := s.known(id)
	if !ok {
		if err := s.refresh(ctx, begun); err != nil {
			return l, err
		}
		if l, ok = s.known(id); !ok {
			return l, chunk.ErrNotFound
		}
	}
	return l, nil
}

// lost notes that a pack is not there.
func (s *Store) lost(b *blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.gone, b.seen = true, false
}

// Fetch implements [chunk.Source]: one request with a range, but for a chunk
// whose place is not known yet.
func (s *Store) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("fetch chunk %v: negative offset %d", id, off)
	}
	for {
		l, err := s.find(ctx, id)
		if err != nil {
			return 0, fmt.Errorf("fetch chunk %v: %w", id, err)
		}
		n := min(int64(l.len)-off, int64(len(dst)))
		if n <= 0 {
			return 0, ctx.Err()
		}
		err = s.client.readRange(ctx, l.blob.digest, l.blob.size, int64(l.off)+off, dst[:n])
		if errors.Is(err, chunk.ErrNotFound) {
			s.lost(l.blob) // another pack may have it
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("fetch chunk %v: %w", id, err)
		}
		return int(n), nil
	}
}

// Stat implements [chunk.Prober] by what the indexes say. That a pack is there,
// of its right size, it asks once.
func (s *Store) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	for {
		l, err := s.find(ctx, id)
		if err == nil {
			err = s.probe(ctx, l.blob)
		}
		switch {
		case err == nil:
			return int64(l.len), nil
		case l.valid() && errors.Is(err, chunk.ErrNotFound):
			s.lost(l.blob)
		default:
			return 0, fmt.Errorf("stat chunk %v: %w", id, err)
		}
	}
}

// probe asks whether a pack is there.
func (s *Store) probe(ctx context.Context, b *blob) error {
	unlock, err := s.client.locks.lock(ctx, s.client.repo.Name()+"@"+b.digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	seen := b.seen
	s.mu.Unlock()
	if seen {
		return nil
	}
	size, err := s.client.statBlob(ctx, b.digest)
	if err == nil && size != b.size {
		err = fmt.Errorf("pack %v has %d bytes, want %d: %w", b.digest, size, b.size, chunk.ErrNotFound)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.seen = true
	return nil
}

// List implements [chunk.Lister]. fn may call the store.
func (s *Store) List(ctx context.Context, fn func(id chunk.ID, size int64) error) error {
	if err := s.refresh(ctx, time.Now()); err != nil {
		return fmt.Errorf("list chunks: %w", err)
	}
	type item struct {
		id   chunk.ID
		size int64
	}
	s.mu.Lock()
	list := make([]item, 0, len(s.places))
	for id, l := range s.places {
		if l.valid() {
			list = append(list, item{id, int64(l.len)})
		}
	}
	s.mu.Unlock()
	for _, i := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(i.id, i.size); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Remove implements [chunk.Remover]: it writes the indexes that lead to the
// chunk anew without it. Its bytes stay in their pack. Another process that
// has read those indexes before goes on finding it.
func (s *Store) Remove(ctx context.Context, id chunk.ID) error {
	err := s.Flush(ctx)
	if err == nil {
		err = s.remove(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("remove chunk %v: %w", id, err)
	}
	return nil
}
