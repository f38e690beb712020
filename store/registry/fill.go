package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// Bounds of what is gathered before it is uploaded.
const (
	maxFillChunks = 1 << 16 // chunks of one pack, or led to elsewhere by one index
	maxFillPacks  = 1 << 10 // packs that one index leads to
	maxWaiting    = 3       // full packs that are not stored yet
)

// A filling is a pack that is gathered, with the index that will lead to it.
//
// While it is the store's filling, all of it is guarded by the store's mutex.
// Then it is full, and belongs to whoever has put something into turn: any of
// Put and Flush, one after the other until one succeeds.
type filling struct {
	file  *os.File // the pack so far: unlinked; nil if there is no chunk in it
	hash  hash.Hash
	size  int64
	own   []place                    // chunks in the pack
	other map[chunk.ID]location      // chunks that lie in other packs
	packs map[origin.Digest]struct{} // of other

	turn chan struct{}
	done bool
}

func newFilling() *filling {
	return &filling{
		hash: sha256.New(), turn: make(chan struct{}, 1),
		other: make(map[chunk.ID]location), packs: make(map[origin.Digest]struct{}),
	}
}

// append adds a chunk to the pack.
func (f *filling) append(dir string, id chunk.ID, object []byte) error {
	if f.file == nil {
		file, err := os.CreateTemp(dir, "rivulet-pack-*")
		if err != nil {
			return err
		}
		f.file = file
		if err := os.Remove(file.Name()); err != nil {
			return err
		}
	}
	if _, err := f.file.WriteAt(object, f.size); err != nil {
		return err
	}
	_, _ = f.hash.Write(object) // never fails
	f.own = append(f.own, place{id: id, off: uint32(f.size), len: uint32(len(object))})
	f.size += int64(len(object))
	return nil
}

// drop gives the file back.
func (f *filling) drop() {
	if f.file != nil {
		_ = f.file.Close() // unlinked; nothing can be lost
		f.file = nil
	}
}

// Put implements [chunk.Sink]: it adds the chunk to the pack that is gathered,
// and uploads that once it is full.
func (s *Store) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if _, err := chunk.Verify(id, object); err != nil {
		return false, err
	}
	added, err := s.put(ctx, id, func(f *filling) error { return f.append(s.client.opts.TempDir, id, object) })
	if err != nil {
		return false, fmt.Errorf("put chunk %v: %w", id, err)
	}
	return added, nil
}

// put lets add add a chunk to the pack that is gathered, unless the generation
// has it.
func (s *Store) put(ctx context.Context, id chunk.ID, add func(f *filling) error) (added bool, err error) {
	if err := s.load(ctx); err != nil {
		return false, err
	}
	if l, ok := s.known(id); ok { // what an index says counts if the pack is there
		if err := s.probe(ctx, l.blob); errors.Is(err, chunk.ErrNotFound) {
			s.lost(l.blob)
		} else if err != nil {
			return false, err
		}
	}
	if f := s.tooMany(); f != nil { // others are uploading, or could not
		if err := s.upload(ctx, f); err != nil {
			return false, err
		}
	}
	full, added, err := s.gather(id, add)
	if err != nil || full == nil {
		return added, err
	}
	return added, s.upload(ctx, full)
}

// tooMany returns the full pack that waits for the longest time, if there are
// too many.
func (s *Store) tooMany() *filling {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) < maxWaiting {
		return nil
	}
	return s.waiting[0]
}

// gather is the part of put that holds the lock. It returns the pack if that
// is full now.
func (s *Store) gather(id chunk.ID, add func(f *filling) error) (full *filling, added bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.places[id]; l.valid() && l.blob.seen || s.pending[id] != nil {
		return nil, false, nil
	}
	f := s.filling
	if f == nil {
		f = newFilling()
		s.filling = f
	}
	if err := add(f); err != nil {
		return nil, false, err
	}
	s.pending[id] = f
	if f.size < s.client.opts.PackBytes && len(f.own)+len(f.other) < maxFillChunks && len(f.packs) < maxFillPacks {
		return nil, true, nil
	}
	s.seal()
	return f, true, nil
}

// seal makes the pack that is gathered a full one. s.mu is held.
func (s *Store) seal() {
	if s.filling != nil {
		s.waiting = append(s.waiting, s.filling)
		s.filling = nil
	}
}

// Flush implements [chunk.Sink]: it uploads what was gathered.
func (s *Store) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	s.seal()
	waiting := append([]*filling(nil), s.waiting...)
	s.mu.Unlock()
	for _, f := range waiting {
		if err := s.upload(ctx, f); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	return nil
}

// upload stores a full pack and its index, or waits for whoever does. What
// fails stays, and the next one tries again.
func (s *Store) upload(ctx context.Context, f *filling) error {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if f.done {
		return nil
	}
	var b builder
	own := pack{origin.Digest(f.hash.Sum(nil)), f.size}
	for _, p := range f.own {
		b.add(p.id, own, p.off, p.len)
	}
	for id, l := range f.other {
		b.add(id, l.blob.pack, l.off, l.len)
	}
	encoded := b.encode()
	tag := s.indexTag(encoded)
	if err := s.store(ctx, f, own, tag, encoded, &b.index); err != nil {
		return err
	}
	s.mu.Lock()
	if f.size > 0 {
		s.blob(own).seen, s.blob(own).gone = true, time.Time{}
	}
	s.mu.Unlock()
	s.merge(tag, &b.index)
	s.mu.Lock()
	defer s.mu.Unlock()
	f.done = true
	for id := range f.other {
		delete(s.pending, id)
	}
	for _, p := range f.own {
		delete(s.pending, p.id)
	}
	for i := range s.waiting {
		if s.waiting[i] == f {
			s.waiting = append(s.waiting[:i:i], s.waiting[i+1:]...)
			break
		}
	}
	f.drop()
	return nil
}

// store writes the pack, the index and, last, the manifest.
func (s *Store) store(ctx context.Context, f *filling, own pack, tag string, encoded []byte, x *index) error {
	g, gctx := errgroup.WithContext(ctx)
	if f.size > 0 {
		g.Go(func() error { return s.client.writeBlob(gctx, own.digest, f.file, f.size) })
	}
	g.Go(func() error { return s.client.ensureBlob(gctx, encoded) })
	g.Go(func() error { return s.client.ensureEmpty(gctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	b, desc := encodeManifest(packsManifest(typePacks, s.id, nil, encoded, x))
	return s.client.writeManifest(ctx, tag, desc.MediaType, b)
}

// CopyChunk implements [origin.Origin]: both generations lead to one place in a
// pack, which stays as a whole as long as either does.
func (o *Origin) CopyChunk(ctx context.Context, id chunk.ID, from, to origin.GenerationID) (bool, error) {
	added, err := o.generation(to).refer(ctx, id, o.generation(from))
	if err != nil {
		return false, fmt.Errorf("copy chunk %v: %w", id, err)
	}
	return added, nil
}

// refer makes chunk id of src one of s, whose repository has its pack.
func (s *Store) refer(ctx context.Context, id chunk.ID, src *Store) (bool, error) {
	var l location
	err := src.locate(ctx, id, func(at location) error { l = at; return src.probe(ctx, at.blob) })
	if err != nil {
		return false, err
	}
	return s.put(ctx, id, func(f *filling) error {
		f.other[id] = location{blob: s.blob(l.blob.pack), off: l.off, len: l.len}
		f.packs[l.blob.digest] = struct{}{}
		return nil
	})
}

// Adopt makes chunk id of src, which lies in another repository of the same
// registry, one of s too, and reports whether it was not one yet. No bytes
// move: the pack is mounted, once. The error is ErrNotMounted if the registry
// cannot do that, or is another one; the chunk has to be read and put then. A
// chunk that src lacks is chunk.ErrNotFound. Durability is as for Put.
func (s *Store) Adopt(ctx context.Context, id chunk.ID, src *Store) (bool, error) {
	added, err := s.adopt(ctx, id, src)
	if err != nil {
		return false, fmt.Errorf("adopt chunk %v: %w", id, err)
	}
	return added, nil
}

func (s *Store) adopt(ctx context.Context, id chunk.ID, src *Store) (bool, error) {
	here, there := s.client, src.client
	if here.repo.RegistryStr() != there.repo.RegistryStr() {
		return false, fmt.Errorf("%w: the repositories are of different registries", ErrNotMounted)
	}
	if here.repo.Name() == there.repo.Name() {
		return s.refer(ctx, id, src)
	}
	if err := s.load(ctx); err != nil {
		return false, err
	}
	if l, ok := s.known(id); ok && s.probe(ctx, l.blob) == nil {
		return false, nil
	}
	l, err := src.find(ctx, id)
	if err != nil {
		return false, err
	}
	if err := s.mountPack(ctx, l.blob.pack, there); err != nil {
		return false, err
	}
	return s.refer(ctx, id, src)
}

// mountPack makes a pack of another repository one of this too.
func (s *Store) mountPack(ctx context.Context, p pack, from *client) error {
	unlock, err := s.client.locks.lock(ctx, s.client.repo.Name()+" mounts "+p.digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	b := s.blob(p)
	seen, refused := b.seen, b.refused
	s.mu.Unlock()
	if seen {
		return nil
	}
	if refused {
		return ErrNotMounted
	}
	s.client.addScopes(s.client.repo.Scope(transport.PushScope), from.repo.Scope(transport.PullScope))
	err = s.client.mount(ctx, p.digest, from)
	s.mu.Lock()
	defer s.mu.Unlock()
	b.refused = errors.Is(err, ErrNotMounted)
	if err == nil {
		b.seen, b.gone = true, time.Time{}
	}
	return err
}
