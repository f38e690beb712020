// Package memory keeps an origin in memory: for tests, and for programs that
// publish and read images without a place to keep them. It grows without bound,
// and nothing in it outlives the process.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// A Store is an origin in memory. Any number of calls may run at once. New
// makes one.
type Store struct {
	mu       sync.RWMutex             // guards the maps; what they hold never changes
	chunks   map[chunk.ID][]byte      // stored form
	objects  map[origin.Digest][]byte // bytes
	pointers map[string][]byte        // value
}

var _ origin.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	return &Store{
		chunks:   make(map[chunk.ID][]byte),
		objects:  make(map[origin.Digest][]byte),
		pointers: make(map[string][]byte),
	}
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

// Put implements [chunk.Sink].
func (s *Store) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if _, err := chunk.Verify(id, object); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.chunks[id]; ok {
		return false, nil
	}
	s.chunks[id] = bytes.Clone(object)
	return true, nil
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

// GetPointer implements [origin.Pointers].
func (s *Store) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := origin.ValidName(name); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok := s.pointers[name]
	if !ok {
		return nil, fmt.Errorf("get pointer %s: %w", name, chunk.ErrNotFound)
	}
	return bytes.Clone(v), nil
}

// SwapPointer implements [origin.Pointers].
func (s *Store) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := origin.ValidName(name); err != nil {
		return err
	}
	if len(new) > origin.MaxPointerBytes {
		return fmt.Errorf("swap pointer %s: value of %d bytes, at most %d are allowed", name, len(new), origin.MaxPointerBytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	present, ok := s.pointers[name]
	if ok != (old != nil) || !bytes.Equal(present, old) {
		return fmt.Errorf("swap pointer %s: %w", name, origin.ErrConflict)
	}
	if new == nil {
		delete(s.pointers, name)
	} else {
		s.pointers[name] = append([]byte{}, new...)
	}
	return nil
}

// ListPointers implements [origin.Pointers]. fn may call the store.
func (s *Store) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	var names []string
	s.mu.RLock()
	for name := range s.pointers {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	s.mu.RUnlock()
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
