package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// listWindow is how many objects are asked for before their sizes are told.
const listWindow = 4 * requestsAtOnce

func (s *Store) objectTag(d origin.Digest) string { return s.prefix + "o-" + hashOf(d).Hex }
func (s *Store) diskTag(d origin.Digest) string   { return s.prefix + "x-" + hashOf(d).Hex }

// presence is what there is of an object.
type presence struct {
	manifest *storedManifest // nil: none that is right
	blob     bool            // of a large one
	packs    v1.Hash         // of the manifest that lists its packs, if it is a block map
	subject  *v1.Descriptor  // the image that a block map was made from, if it is here
}

// PutObject implements [origin.Objects]. A block map is recognised by its
// bytes, which name its image and, in the clear, its chunks. So its manifest
// can have the image for a subject, if that is in this repository, and beside
// it comes one that lists the packs of all its chunks. What was put before is
// flushed first: those packs have to be there.
func (s *Store) PutObject(ctx context.Context, data []byte) (origin.Digest, error) {
	d := origin.Sum(data)
	if len(data) > origin.MaxObjectBytes {
		return d, fmt.Errorf("put object: %d bytes, at most %d are allowed", len(data), origin.MaxObjectBytes)
	}
	if err := s.putObject(ctx, d, data); err != nil {
		return d, fmt.Errorf("put object %v: %w", d, err)
	}
	return d, nil
}

func (s *Store) putObject(ctx context.Context, d origin.Digest, data []byte) error {
	m, err := blockmap.Parse(data)
	if err != nil {
		m = nil
	}
	var is *presence
	var x *builder // of m
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		is, err = s.putBytes(gctx, d, m, data)
		return err
	})
	if m != nil {
		g.Go(func() (err error) {
			if err = s.Flush(gctx); err == nil {
				x, err = s.putIndex(gctx, m)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fresh := s.objectManifest(d, m, data, is.subject)
	_, desc := encodeManifest(fresh)
	if is.manifest != nil {
		desc = is.manifest.desc
	}
	if m != nil {
		if err := s.putPacks(ctx, d, x, desc, is.packs); err != nil {
			return err
		}
	}
	if is.manifest == nil {
		if desc, err = s.client.writeReferrer(ctx, s.objectTag(d), fresh); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[d] = desc
	return nil
}

// putBytes asks what there is of an object already, and writes its bytes unless they are; small ones
// meanwhile.
func (s *Store) putBytes(ctx context.Context, d origin.Digest, m *blockmap.Map, data []byte) (*presence, error) {
	var is *presence
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		is, err = s.present(gctx, d, m, int64(len(data)))
		return err
	})
	small := len(data) <= inlineBytes
	if small {
		g.Go(func() error { return s.client.ensureBlob(gctx, data) })
	}
	if err := g.Wait(); err != nil || small || is.blob {
		return is, err
	}
	return is, s.client.writeBlob(ctx, d, bytes.NewReader(data), int64(len(data)))
}

// present asks what there is of an object already, all at once.
func (s *Store) present(ctx context.Context, d origin.Digest, m *blockmap.Map, size int64) (*presence, error) {
	var is presence
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.client.ensureEmpty(ctx) })
	g.Go(func() error {
		if size <= inlineBytes {
			return nil // it is written in any case
		}
		have, err := s.client.statBlob(ctx, d)
		is.blob = err == nil && have == size
		return unlessMissing(err)
	})
	g.Go(func() error {
		have, err := s.client.readManifest(ctx, s.objectTag(d), typeObject, typeBlockMap)
		if err == nil && have.Layers[0].Digest == hashOf(d) && have.Layers[0].Size == size {
			is.manifest = have
		}
		if errors.Is(err, ErrArtifact) {
			return nil // it is replaced
		}
		return unlessMissing(err)
	})
	if m != nil {
		g.Go(func() error {
			have, err := s.client.statManifest(ctx, s.diskTag(d))
			is.packs = have.Digest
			return unlessMissing(err)
		})
		if image := m.Info().Source; image != (origin.Digest{}) {
			g.Go(func() error {
				have, err := s.client.statManifest(ctx, image.String())
				if err == nil && have.Digest == hashOf(image) {
					is.subject = &v1.Descriptor{MediaType: have.MediaType, Digest: have.Digest, Size: have.Size}
				}
				return unlessMissing(err)
			})
		}
	}
	return &is, g.Wait()
}

func unlessMissing(err error) error {
	if errors.Is(err, chunk.ErrNotFound) {
		return nil
	}
	return err
}

func (s *Store) objectManifest(d origin.Digest, m *blockmap.Map, data []byte, subject *v1.Descriptor) *v1.Manifest {
	artifact, layer := typeObject, v1.Descriptor{MediaType: mediaBytes, Digest: hashOf(d), Size: int64(len(data))}
	if m != nil {
		artifact, layer.MediaType = typeBlockMap, typeBlockMap
	}
	out := newManifest(artifact, layer)
	out.Subject = subject
	out.Annotations[noteGeneration], out.Annotations[noteObject] = s.id.String(), d.String()
	return out
}

// putIndex writes the index of a block map's chunks. Chunks that the generation lacks are left
// out: that a block map comes after its chunks is for the publisher to see to.
func (s *Store) putIndex(ctx context.Context, m *blockmap.Map) (*builder, error) {
	x, err := s.indexOf(ctx, m)
	if err == nil {
		err = s.client.ensureBlob(ctx, x.encode())
	}
	return x, err
}

// putPacks writes the manifest that lists an index, which is there, and its packs, unless it is there
// as it should be.
func (s *Store) putPacks(ctx context.Context, d origin.Digest, x *builder, subject v1.Descriptor, have v1.Hash) error {
	fresh := packsManifest(typePacks, s.id, nil, x.encode(), &x.index)
	subject.ArtifactType = ""
	fresh.Subject = &subject
	if _, desc := encodeManifest(fresh); desc.Digest == have {
		return nil
	}
	_, err := s.client.writeReferrer(ctx, s.diskTag(d), fresh)
	if err == nil && have != (v1.Hash{}) {
		// The old one would only keep packs that are not needed. It does no harm.
		_ = s.client.deleteRef(ctx, have.String())
	}
	return err
}

// indexOf makes an index of the chunks of a block map, in packs that are there:
// registries refuse manifests that list what they lack.
func (s *Store) indexOf(ctx context.Context, m *blockmap.Map) (*builder, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	unseen := s.unseen(m)
	err := each(ctx, len(unseen), func(ctx context.Context, i int) error {
		err := s.probe(ctx, unseen[i])
		if errors.Is(err, chunk.ErrNotFound) {
			s.lost(unseen[i])
		}
		return unlessMissing(err)
	})
	if err != nil {
		return nil, err
	}
	var b builder
	seen := make(map[chunk.ID]bool, m.Len())
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range m.Len() {
		id := m.Chunk(i).ID
		if l := s.places[id]; !seen[id] && l.valid() {
			seen[id] = true
			b.add(id, l.blob.pack, l.off, l.len)
		}
	}
	if len(b.packs) > MaxPacks {
		return nil, fmt.Errorf("its chunks lie in %d packs, at most %d are allowed: begin a new generation", len(b.packs), MaxPacks)
	}
	return &b, nil
}

// unseen returns the packs of a block map's chunks of which nobody has asked
// whether they are there.
func (s *Store) unseen(m *blockmap.Map) (list []*blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := make(map[*blob]bool)
	for i := range m.Len() {
		if l := s.places[m.Chunk(i).ID]; l.valid() && !l.blob.seen && !in[l.blob] {
			in[l.blob] = true
			list = append(list, l.blob)
		}
	}
	return list
}

// eagerBytes bounds an object that is read beside its manifest.
const eagerBytes = 4 << 20

// GetObject implements [origin.Objects]. The object is read at the same time as its
// manifest, which tells whether it is there. With a block map it reads where its chunks
// lie: that takes two round trips if there are many.
func (s *Store) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	data, err := s.getObject(ctx, d, max)
	if err != nil {
		return nil, fmt.Errorf("get object %v: %w", d, err)
	}
	return data, nil
}

func (s *Store) getObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	max = min(max, origin.MaxObjectBytes)
	var object *storedManifest
	var early []byte
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if b, err := s.client.readUnsized(gctx, d, min(max, eagerBytes)); err == nil {
			early = b
		} // else it is read when its size is known
		return nil
	})
	g.Go(func() (err error) {
		object, err = s.client.readMatching(gctx, s.objectTag(d), func(m *storedManifest) error {
			if listed := m.Layers[0].Digest; listed != hashOf(d) {
				return fmt.Errorf("it lists %v", listed)
			}
			return nil
		}, typeObject, typeBlockMap)
		return err
	})
	g.Go(func() error {
		packs, err := s.client.readManifest(gctx, s.diskTag(d), typePacks)
		if packs == nil || err != nil {
			return unlessMissing(err)
		}
		x, err := s.client.readIndex(gctx, packs.Layers[0])
		if err == nil {
			s.merge(s.diskTag(d), x)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	data, err := early, error(nil)
	if layer := object.Layers[0]; early == nil || int64(len(early)) != layer.Size {
		data, err = s.client.readBlob(ctx, layer, max)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[d] = object.desc
	return data, err
}

// ListObjects implements [origin.Objects]. A size costs a request.
func (s *Store) ListObjects(ctx context.Context, fn func(d origin.Digest, size int64) error) error {
	var all []origin.Digest
	prefix := s.prefix + "o-"
	err := s.client.tags(ctx, prefix, func(tag string) {
		if d, err := origin.ParseDigest("sha256:" + tag[len(prefix):]); err == nil {
			all = append(all, d)
		}
	})
	for len(all) > 0 && err == nil {
		some := all[:min(len(all), listWindow)]
		all = all[len(some):]
		err = s.listSome(ctx, some, fn)
	}
	return err
}

func (s *Store) listSome(ctx context.Context, some []origin.Digest, fn func(d origin.Digest, size int64) error) error {
	sizes := make([]int64, len(some))
	err := each(ctx, len(some), func(ctx context.Context, i int) error {
		m, err := s.client.readManifest(ctx, s.objectTag(some[i]), typeObject, typeBlockMap)
		if sizes[i] = -1; err == nil {
			sizes[i] = m.Layers[0].Size
		}
		return unlessMissing(err) // removed meanwhile
	})
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	for i, d := range some {
		if sizes[i] < 0 {
			continue
		}
		if err := fn(d, sizes[i]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// RemoveObject implements [origin.Objects]. Some registries forget the
// attachments of an object with it.
func (s *Store) RemoveObject(ctx context.Context, d origin.Digest) error {
	for _, tag := range []string{s.diskTag(d), s.objectTag(d)} {
		if _, err := s.deleteArtifact(ctx, tag); err != nil {
			return fmt.Errorf("remove object %v: %w", d, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, d)
	return nil
}

// deleteArtifact deletes the manifest at a tag, and what is listed of it at its
// subject, and reports whether there was one.
func (s *Store) deleteArtifact(ctx context.Context, tag string) (bool, error) {
	m, err := s.client.readManifest(ctx, tag, typeObject, typeBlockMap, typePacks, typeSubject)
	if err != nil {
		return false, unlessMissing(err)
	}
	if _, err := s.client.deleteTagged(ctx, tag); err != nil {
		return false, err
	}
	return true, s.client.unlist(ctx, m)
}
