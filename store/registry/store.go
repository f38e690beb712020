package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// goneTime is how long a pack that was not there is not asked for again.
const goneTime = time.Minute

// maxChunk is the largest stored chunk.
const maxChunk = chunk.MaxStoredSize

// A Store is one generation of an [Origin].
type Store struct {
	pointers
	id    origin.GenerationID
	ahead *origin.Ahead // of pointers; nil: nothing was asked ahead

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
	asking  chan struct{} // whoever asks whether it is there has put something in
	seen    bool          // it was asked for, and is there
	gone    time.Time     // when it was found not to be there; zero: it was not
	refused bool          // it could not be mounted
}

// A location is where a chunk lies, and who says so.
type location struct {
	blob     *blob
	from     *source
	off, len uint32
}

func (l location) valid() bool { return l.blob != nil && l.blob.gone.IsZero() && !l.from.gone }

func newStore(c *client, id origin.GenerationID) *Store {
	s := &Store{id: id, loading: make(chan struct{}, 1)}
	s.pointers = pointers{client: c, prefix: generationPrefix(id), generation: id.String()}
	s.reset()
	return s
}

// GetPointer implements [origin.Pointers].
func (s *Store) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if s.ahead == nil {
		return s.pointers.GetPointer(ctx, name)
	}
	return s.ahead.GetPointer(ctx, name)
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
	s.seal()
	for _, f := range s.waiting {
		select {
		case f.turn <- struct{}{}:
			f.done = true
			f.drop()
			<-f.turn
		default: // whoever uploads it gives it back
		}
	}
	s.waiting = nil
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

// lost notes that a pack is not there. Other indexes, which may lead elsewhere,
// are read again when a chunk of it is looked for.
func (s *Store) lost(b *blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.gone, b.seen = time.Now(), false
	for _, src := range s.sources {
		src.read = false
	}
}

// locate lets use use the place of a chunk. If its pack turns out not to be
// there, another may have the chunk, so it asks for indexes once more. The error
// is chunk.ErrNotFound if that does not help.
func (s *Store) locate(ctx context.Context, id chunk.ID, use func(l location) error) error {
	for again := false; ; again = true {
		l, err := s.find(ctx, id)
		if err != nil {
			return err
		}
		if err = use(l); !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
		if s.lost(l.blob); again {
			return err
		}
	}
}

// Fetch implements [chunk.Source]: one request with a range, but for a chunk
// whose place is not known yet.
func (s *Store) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("fetch chunk %v: negative offset %d", id, off)
	}
	err = s.locate(ctx, id, func(l location) error {
		n = int(min(max(int64(l.len)-off, 0), int64(len(dst))))
		if n == 0 {
			return ctx.Err()
		}
		return s.client.readRange(ctx, l.blob.digest, l.blob.size, int64(l.off)+off, dst[:n])
	})
	if err != nil {
		return 0, fmt.Errorf("fetch chunk %v: %w", id, err)
	}
	return n, nil
}

// Request implements [origin.Requester]: a part of a pack, with the token or
// password that the registry wants. It asks for indexes if the chunk's place is
// not known, and for a token if there is none yet.
func (s *Store) Request(ctx context.Context, id chunk.ID) (origin.Request, error) {
	l, err := s.find(ctx, id)
	var header http.Header
	if err == nil {
		header, err = s.client.credentials(ctx, s.client.url("blobs/%v", l.blob.digest))
	}
	if err != nil {
		return origin.Request{}, fmt.Errorf("request for chunk %v: %w", id, err)
	}
	return origin.Request{
		URL: s.client.url("blobs/%v", l.blob.digest), Header: header,
		Offset: int64(l.off), Length: int64(l.len),
	}, nil
}

// Stat implements [chunk.Prober] by what the indexes say. That a pack is there,
// of its right size, it asks once.
func (s *Store) Stat(ctx context.Context, id chunk.ID) (size int64, err error) {
	err = s.locate(ctx, id, func(l location) error {
		size = int64(l.len)
		return s.probe(ctx, l.blob)
	})
	if err != nil {
		return 0, fmt.Errorf("stat chunk %v: %w", id, err)
	}
	return size, nil
}

// probe asks whether a pack is there, unless that was done.
func (s *Store) probe(ctx context.Context, b *blob) error {
	if s.seen(b) {
		return nil
	}
	select {
	case b.asking <- struct{}{}:
		defer func() { <-b.asking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if s.seen(b) {
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
	b.seen, b.gone = true, time.Time{}
	return nil
}

func (s *Store) seen(b *blob) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return b.seen
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
