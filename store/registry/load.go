package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// refresh reads the indexes of the generation that came since the last time,
// unless that began after since.
func (s *Store) refresh(ctx context.Context, since time.Time) error {
	select {
	case s.loading <- struct{}{}:
		defer func() { <-s.loading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	done := s.loaded.After(since)
	had := make(map[string]*source, len(s.sources))
	for tag, src := range s.sources {
		if strings.HasPrefix(tag, s.prefix+"k-") {
			had[tag] = src
		}
	}
	s.mu.Unlock()
	if done {
		return nil
	}
	begun := time.Now()
	var all []string
	err := s.client.tags(ctx, s.prefix+"k-", func(tag string) {
		all = append(all, tag)
		delete(had, tag)
	})
	if err != nil {
		return err
	}
	if err := s.readSources(ctx, s.unread(all, had)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded = begun
	return nil
}

// unread returns which of tags are to be read. If others were deleted, these
// are all: what they say of chunks that the others spoke of counts again. Packs
// that were not there may be now.
func (s *Store) unread(tags []string, deleted map[string]*source) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tag, src := range deleted {
		src.gone = true
		delete(s.sources, tag)
	}
	for _, b := range s.blobs {
		if time.Since(b.gone) > goneTime {
			b.gone = time.Time{}
		}
	}
	if len(deleted) > 0 {
		for _, src := range s.sources {
			src.read = false
		}
	}
	return slices.DeleteFunc(tags, func(tag string) bool { return s.sources[tag] != nil && s.sources[tag].read })
}

// load reads all indexes if that was never done.
func (s *Store) load(ctx context.Context) error {
	s.mu.Lock()
	never := s.loaded.IsZero()
	s.mu.Unlock()
	if !never {
		return nil
	}
	return s.refresh(ctx, time.Time{})
}

func (s *Store) readSources(ctx context.Context, tags []string) error {
	return each(ctx, len(tags), func(ctx context.Context, i int) error {
		_, x, err := s.client.readPacks(ctx, tags[i])
		if errors.Is(err, chunk.ErrNotFound) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		s.merge(tags[i], x)
		return nil
	})
}

// readPacks reads the manifest at a tag or digest, and the index that it lists
// first.
func (c *client) readPacks(ctx context.Context, ref string) (*storedManifest, *index, error) {
	m, err := c.readManifest(ctx, ref, typePacks)
	if err != nil {
		return nil, nil, err
	}
	x, err := c.readIndex(ctx, m.Layers[0])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", ref, err)
	}
	return m, x, nil
}

func (c *client) readIndex(ctx context.Context, desc v1.Descriptor) (*index, error) {
	if desc.MediaType != mediaIndex {
		return nil, fmt.Errorf("%w: a %.60q, where an index is wanted", ErrArtifact, desc.MediaType)
	}
	b, err := c.readBlob(ctx, desc, maxIndexSize)
	if err != nil {
		return nil, err
	}
	return parseIndex(b)
}

// merge takes over what an index says of chunks that nothing else speaks of.
func (s *Store) merge(tag string, x *index) {
	s.mu.Lock()
	defer s.mu.Unlock()
	src := s.sources[tag]
	if src == nil {
		src = new(source)
		s.sources[tag] = src
	}
	src.read = true
	blobs := make([]*blob, len(x.packs))
	for i, p := range x.packs {
		blobs[i] = s.blob(p)
	}
	for _, p := range x.places {
		if !s.places[p.id].valid() {
			s.places[p.id] = location{blobs[p.pack], src, p.off, p.len}
		}
	}
}

// blob returns what is known of a pack. s.mu is held.
func (s *Store) blob(p pack) *blob {
	b := s.blobs[p.digest]
	if b == nil {
		b = &blob{pack: p, asking: make(chan struct{}, 1)}
		s.blobs[p.digest] = b
	}
	return b
}

// packsManifest returns the manifest that lists an index and its packs.
func packsManifest(artifact string, generation origin.GenerationID, first []v1.Descriptor, encoded []byte, x *index) *v1.Manifest {
	layers := append(slices.Clone(first), descriptor(mediaIndex, encoded))
	for _, p := range x.packs {
		layers = append(layers, v1.Descriptor{MediaType: mediaPack, Digest: hashOf(p.digest), Size: p.size})
	}
	m := newManifest(artifact, layers...)
	if generation != 0 {
		m.Annotations[noteGeneration] = generation.String()
	}
	return m
}

// indexTag is the tag of an index of the generation.
func (s *Store) indexTag(encoded []byte) string {
	return s.prefix + "k-" + hashOf(origin.Sum(encoded)).Hex
}

// remove takes a chunk out of all indexes that the registry has.
func (s *Store) remove(ctx context.Context, id chunk.ID) error {
	if _, err := s.find(ctx, id); errors.Is(err, chunk.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	var tags []string
	for _, kind := range []string{"k-", "x-"} {
		if err := s.client.tags(ctx, s.prefix+kind, func(tag string) { tags = append(tags, tag) }); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		if err := s.removeFrom(ctx, tag, id); err != nil {
			return err
		}
	}
	s.mu.Lock()
	delete(s.places, id)
	s.mu.Unlock()
	return nil
}

// removeFrom takes a chunk out of one index. The new one is there before the
// old one goes.
func (s *Store) removeFrom(ctx context.Context, tag string, id chunk.ID) error {
	m, x, err := s.client.readPacks(ctx, tag)
	if errors.Is(err, chunk.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	i, found := slices.BinarySearchFunc(x.places, id, func(p place, id chunk.ID) int { return bytes.Compare(p.id[:], id[:]) })
	if !found {
		return nil
	}
	x.places = slices.Delete(x.places, i, i+1)
	var b builder
	for _, p := range x.places {
		b.add(p.id, x.packs[p.pack], p.off, p.len)
	}
	disk := m.Subject != nil
	if len(b.places) > 0 || disk {
		encoded := b.encode()
		fresh := packsManifest(typePacks, s.id, nil, encoded, &b.index)
		fresh.Subject = m.Subject
		to := tag
		if !disk {
			to = s.indexTag(encoded)
		}
		if err := s.client.ensureBlob(ctx, encoded); err != nil {
			return err
		}
		if _, err := s.client.writeReferrer(ctx, to, fresh); err != nil {
			return err
		}
		s.forget(tag)
		s.merge(to, &b.index)
		if disk { // the tag leads to the new one already
			if err := s.client.deleteRef(ctx, m.desc.Digest.String()); err != nil {
				return err
			}
			return s.client.unlist(ctx, m)
		}
	}
	s.forget(tag)
	_, err = s.client.deleteTagged(ctx, tag)
	return err
}

// forget makes what an index says not count.
func (s *Store) forget(tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.sources[tag]; src != nil {
		src.gone = true
		delete(s.sources, tag)
	}
}
