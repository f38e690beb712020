package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// attachmentWindow is how many attachments are read before they are told of.
const attachmentWindow = 8

func (s *Store) subjectTag(d origin.Digest) string { return s.prefix + "a-" + hashOf(d).Hex }

// Attach implements [origin.Attachments] by a manifest that has the object's
// for a subject or, if the object is not there, one that stands for it.
func (s *Store) Attach(ctx context.Context, subject origin.Digest, kind string, data []byte) error {
	err := origin.CheckAttachment(kind, data)
	if err == nil {
		err = s.attach(ctx, subject, kind, data)
	}
	if err != nil {
		return fmt.Errorf("attach %s to %v: %w", kind, subject, err)
	}
	return nil
}

func (s *Store) attach(ctx context.Context, d origin.Digest, kind string, data []byte) error {
	subject, there, err := s.artifact(ctx, d)
	if err == nil && !there {
		subject, err = s.putSubject(ctx, d)
	}
	if err != nil {
		return err
	}
	m := s.attachmentManifest(d, kind, subject, data)
	_, desc := encodeManifest(m)
	// Nothing would need the tag, but registries are told to throw away what has none.
	tag := s.prefix + "t-" + desc.Digest.Hex
	there = false
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		have, err := s.client.statManifest(gctx, tag)
		there = err == nil && have.Digest == desc.Digest
		return unlessMissing(err)
	})
	g.Go(func() error { return s.client.ensureEmpty(gctx) })
	g.Go(func() error { return s.client.ensureBlob(gctx, data) }) // which most often is not there
	if err := g.Wait(); err != nil {
		return err
	}
	if there {
		return s.client.list(ctx, m, desc)
	}
	_, err = s.client.writeReferrer(ctx, tag, m)
	return err
}

// attachmentManifest returns the manifest of an attachment, which is a function of it.
func (s *Store) attachmentManifest(d origin.Digest, kind string, subject v1.Descriptor, data []byte) *v1.Manifest {
	m := newManifest(typeAttachment+kind, descriptor(mediaBytes, data))
	subject.ArtifactType = ""
	m.Subject = &subject
	m.Annotations[noteObject] = d.String()
	if s.id != 0 { // of a converted image's disk, which is in none
		m.Annotations[noteGeneration] = s.id.String()
	}
	if len(data) <= listedBytes {
		m.Annotations[noteData] = base64.StdEncoding.EncodeToString(data)
	}
	return m
}

// artifact returns the descriptor of an object's manifest, and whether there
// is one.
func (s *Store) artifact(ctx context.Context, d origin.Digest) (v1.Descriptor, bool, error) {
	s.mu.Lock()
	desc, ok := s.objects[d]
	s.mu.Unlock()
	if ok {
		return desc, true, nil
	}
	m, err := s.client.readManifest(ctx, s.objectTag(d), typeObject, typeBlockMap)
	if errors.Is(err, chunk.ErrNotFound) {
		return v1.Descriptor{}, false, nil
	}
	if err != nil {
		return v1.Descriptor{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[d] = m.desc
	return m.desc, true, nil
}

// putSubject writes the manifest that stands for an object that is not there.
func (s *Store) putSubject(ctx context.Context, d origin.Digest) (v1.Descriptor, error) {
	if err := s.client.ensureEmpty(ctx); err != nil {
		return v1.Descriptor{}, err
	}
	m := subjectManifest(s.id, d)
	b, desc := encodeManifest(m)
	return desc, s.client.writeManifest(ctx, s.subjectTag(d), m.MediaType, b)
}

// ListAttachments implements [origin.Attachments].
func (s *Store) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func(data []byte) error) error {
	if err := origin.ValidKind(kind); err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("attachments %s of %v: %w", kind, subject, err) }
	all, err := s.attachments(ctx, subject, kind)
	if err != nil {
		return fail(err)
	}
	if len(all) > origin.MaxAttachments {
		return fail(fmt.Errorf("more than %d", origin.MaxAttachments))
	}
	seen := make(map[origin.Digest]bool, len(all))
	err = s.tell(ctx, all, subject, kind, func(b []byte) error {
		if seen[origin.Sum(b)] {
			return nil
		}
		seen[origin.Sum(b)] = true
		return fn(b)
	})
	if err != nil {
		return err
	}
	return ctx.Err()
}

// tell calls fn with attachments, which it reads some at a time.
func (s *Store) tell(ctx context.Context, all []listed, subject origin.Digest, kind string, fn func(data []byte) error) error {
	for len(all) > 0 {
		some := all[:min(len(all), attachmentWindow)]
		all = all[len(some):]
		data := make([][]byte, len(some))
		err := each(ctx, len(some), func(ctx context.Context, i int) error {
			var err error
			if data[i] = some[i].data; data[i] == nil {
				data[i], err = s.readAttachment(ctx, some[i].manifest, kind)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("attachments %s of %v: %w", kind, subject, err)
		}
		for _, b := range data {
			if b == nil { // it is gone
				continue
			}
			if err := fn(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// A listed attachment is one that a list of referrers speaks of.
type listed struct {
	manifest v1.Hash
	data     []byte // what it says; nil: the manifest is to be read
}

// attachments returns an object's attachments of a kind: those of its own, and
// those of what stands for it.
func (s *Store) attachments(ctx context.Context, d origin.Digest, kind string) ([]listed, error) {
	var before, after []listed
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		_, desc := encodeManifest(subjectManifest(s.id, d))
		before, err = s.listed(ctx, d, kind, desc)
		return err
	})
	g.Go(func() error {
		desc, there, err := s.artifact(ctx, d)
		if err == nil && there {
			after, err = s.listed(ctx, d, kind, desc)
		}
		return err
	})
	err := g.Wait()
	return append(before, after...), err
}

// listed returns the attachments that subject, which stands for the object d, is said
// to have. A list proves nothing. But an attachment's manifest is a function of what it
// says: if what the list says gives the manifest's digest, it is that.
func (s *Store) listed(ctx context.Context, d origin.Digest, kind string, subject v1.Descriptor) ([]listed, error) {
	list, err := s.client.referrers(ctx, subject.Digest, typeAttachment+kind)
	out := make([]listed, len(list))
	for i, r := range list {
		out[i].manifest = r.digest
		if r.data == "" {
			continue
		}
		data, err := base64.StdEncoding.DecodeString(r.data)
		if err != nil || len(data) > listedBytes {
			continue
		}
		if _, desc := encodeManifest(s.attachmentManifest(d, kind, subject, data)); desc.Digest == r.digest {
			out[i].data = data
		}
	}
	return out, err
}

// readAttachment returns an attachment, nil if it is gone.
func (s *Store) readAttachment(ctx context.Context, manifest v1.Hash, kind string) ([]byte, error) {
	m, err := s.client.readManifest(ctx, manifest.String(), typeAttachment+kind)
	if err != nil {
		return nil, unlessMissing(err)
	}
	b, err := s.client.readBlob(ctx, m.Layers[0], origin.MaxAttachmentBytes)
	if err == nil && b == nil {
		b = []byte{}
	}
	return b, err
}
