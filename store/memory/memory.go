// Package memory keeps an origin in memory: for tests, and for programs that
// publish and read images without a place to keep them. It grows without bound,
// and nothing in it outlives the process.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// An Origin is an origin in memory. Any number of calls may run at once. New
// makes one.
type Origin struct {
	pointers
	mu     sync.Mutex // guards stores
	stores map[origin.GenerationID]*Store
}

// A Store is one generation of an [Origin].
type Store struct {
	pointers
	mu          sync.RWMutex             // guards the maps; what they hold never changes
	chunks      map[chunk.ID][]byte      // stored form
	objects     map[origin.Digest][]byte // bytes
	attachments map[place][][]byte
}

// A place is where attachments are kept.
type place struct {
	subject origin.Digest
	kind    string
}

// pointers implements [origin.Pointers].
type pointers struct {
	mu     sync.RWMutex
	values map[string][]byte
}

var (
	_ origin.Origin = (*Origin)(nil)
	_ origin.Store  = (*Store)(nil)
)

// New returns an empty origin.
func New() *Origin {
	return &Origin{
		pointers: pointers{values: make(map[string][]byte)},
		stores:   make(map[origin.GenerationID]*Store),
	}
}

// Generation implements [origin.Origin].
func (o *Origin) Generation(id origin.GenerationID) origin.Store {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stores[id]
	if s == nil {
		s = &Store{
			pointers:    pointers{values: make(map[string][]byte)},
			chunks:      make(map[chunk.ID][]byte),
			objects:     make(map[origin.Digest][]byte),
			attachments: make(map[place][][]byte),
		}
		o.stores[id] = s
	}
	return s
}

// ListGenerations implements [origin.Origin]. fn may call the origin.
func (o *Origin) ListGenerations(ctx context.Context, fn func(id origin.GenerationID) error) error {
	o.mu.Lock()
	var ids []origin.GenerationID
	for id, s := range o.stores {
		if s.size() > 0 {
			ids = append(ids, id)
		}
	}
	o.mu.Unlock()
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// size returns how many things the store holds.
func (s *Store) size() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.pointers.mu.RLock()
	defer s.pointers.mu.RUnlock()
	return len(s.chunks) + len(s.objects) + len(s.attachments) + len(s.values)
}

// DeleteGeneration implements [origin.Origin].
func (o *Origin) DeleteGeneration(ctx context.Context, id origin.GenerationID, tell func(removed int)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s := o.Generation(id).(*Store)
	n := s.size()
	s.mu.Lock()
	clear(s.chunks)
	clear(s.objects)
	clear(s.attachments)
	s.mu.Unlock()
	s.pointers.mu.Lock()
	clear(s.values)
	s.pointers.mu.Unlock()
	tell(n)
	return nil
}

// CopyChunk implements [origin.Origin].
func (o *Origin) CopyChunk(ctx context.Context, id chunk.ID, from, to origin.GenerationID) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	src, dst := o.Generation(from).(*Store), o.Generation(to).(*Store)
	src.mu.RLock()
	b, ok := src.chunks[id]
	src.mu.RUnlock()
	if !ok {
		return false, fmt.Errorf("copy chunk %v: %w", id, chunk.ErrNotFound)
	}
	return dst.add(id, b), nil
}

// Fetch implements [chunk.Source].
func (s *Store) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("fetch chunk %v: negative offset %d", id, off)
	}
	s.mu.RLock()
	b, ok := s.chunks[id]
	s.mu.RUnlock()
	if !ok {
		return 0, fmt.Errorf("fetch chunk %v: %w", id, chunk.ErrNotFound)
	}
	return copy(dst, b[min(off, int64(len(b))):]), nil
}

// Request implements [origin.Requester]: it fails with origin.ErrNoRequest.
func (s *Store) Request(_ context.Context, id chunk.ID) (origin.Request, error) {
	return origin.Request{}, fmt.Errorf("request for chunk %v: %w", id, origin.ErrNoRequest)
}

// Put implements [chunk.Sink].
func (s *Store) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if _, err := chunk.Verify(id, object); err != nil {
		return false, err
	}
	return s.add(id, bytes.Clone(object)), nil
}

// add keeps b, which never changes again, as chunk id, unless there is one.
func (s *Store) add(id chunk.ID, b []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.chunks[id]; ok {
		return false
	}
	s.chunks[id] = b
	return true
}

// Flush implements [chunk.Sink]: Put leaves nothing to do.
func (s *Store) Flush(ctx context.Context) error { return ctx.Err() }

// Remove implements [chunk.Remover].
func (s *Store) Remove(ctx context.Context, id chunk.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.chunks, id)
	return ctx.Err()
}

// Stat implements [chunk.Prober].
func (s *Store) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.chunks[id]
	if !ok {
		return 0, fmt.Errorf("stat chunk %v: %w", id, chunk.ErrNotFound)
	}
	return int64(len(b)), nil
}

// List implements [chunk.Lister]. fn may call the store.
func (s *Store) List(ctx context.Context, fn func(id chunk.ID, size int64) error) error {
	type item struct {
		id   chunk.ID
		size int64
	}
	s.mu.RLock()
	list := make([]item, 0, len(s.chunks))
	for id, b := range s.chunks {
		list = append(list, item{id, int64(len(b))})
	}
	s.mu.RUnlock()
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

// PutObject implements [origin.Objects].
func (s *Store) PutObject(ctx context.Context, data []byte) (origin.Digest, error) {
	if err := ctx.Err(); err != nil {
		return origin.Digest{}, err
	}
	if len(data) > origin.MaxObjectBytes {
		return origin.Digest{}, fmt.Errorf("put object: %d bytes, at most %d are allowed", len(data), origin.MaxObjectBytes)
	}
	d := origin.Sum(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[d]; !ok {
		s.objects[d] = bytes.Clone(data)
	}
	return d, nil
}

// GetObject implements [origin.Objects].
func (s *Store) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	b, ok := s.objects[d]
	s.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("get object %v: %w", d, chunk.ErrNotFound)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("get object %v: %d bytes, at most %d are allowed", d, len(b), max)
	}
	return bytes.Clone(b), nil
}

// ListObjects implements [origin.Objects]. fn may call the store.
func (s *Store) ListObjects(ctx context.Context, fn func(d origin.Digest, size int64) error) error {
	s.mu.RLock()
	objects := maps.Clone(s.objects)
	s.mu.RUnlock()
	for d, b := range objects {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(d, int64(len(b))); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// RemoveObject implements [origin.Objects].
func (s *Store) RemoveObject(ctx context.Context, d origin.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, d)
	return ctx.Err()
}

// Attach implements [origin.Attachments].
func (s *Store) Attach(ctx context.Context, subject origin.Digest, kind string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := origin.CheckAttachment(kind, data); err != nil {
		return fmt.Errorf("attach %s to %v: %w", kind, subject, err)
	}
	at := place{subject, kind}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.attachments[at], func(b []byte) bool { return bytes.Equal(b, data) }) {
		s.attachments[at] = append(s.attachments[at], bytes.Clone(data))
	}
	return nil
}

// ListAttachments implements [origin.Attachments]. fn may call the store.
func (s *Store) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func(data []byte) error) error {
	if err := origin.ValidKind(kind); err != nil {
		return err
	}
	s.mu.RLock()
	list := slices.Clone(s.attachments[place{subject, kind}])
	s.mu.RUnlock()
	if len(list) > origin.MaxAttachments {
		return fmt.Errorf("attachments %s of %v: more than %d", kind, subject, origin.MaxAttachments)
	}
	for _, data := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(bytes.Clone(data)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// GetPointer implements [origin.Pointers].
func (p *pointers) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := origin.ValidName(name); err != nil {
		return nil, err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	v, ok := p.values[name]
	if !ok {
		return nil, fmt.Errorf("get pointer %s: %w", name, chunk.ErrNotFound)
	}
	return bytes.Clone(v), nil
}

// SwapPointer implements [origin.Pointers].
func (p *pointers) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := origin.ValidName(name); err != nil {
		return err
	}
	if len(new) > origin.MaxPointerBytes {
		return fmt.Errorf("swap pointer %s: value of %d bytes, at most %d are allowed", name, len(new), origin.MaxPointerBytes)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	present, ok := p.values[name]
	if ok != (old != nil) || !bytes.Equal(present, old) {
		return fmt.Errorf("swap pointer %s: %w", name, origin.ErrConflict)
	}
	if new == nil {
		delete(p.values, name)
	} else {
		p.values[name] = append([]byte{}, new...)
	}
	return nil
}

// ListPointers implements [origin.Pointers]. fn may call the store.
func (p *pointers) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	var names []string
	p.mu.RLock()
	for name := range p.values {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	p.mu.RUnlock()
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(name); err != nil {
			return err
		}
	}
	return ctx.Err()
}
