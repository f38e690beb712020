package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

const (
	// ConvertedSuffix is what the tag of a converted image has beyond the plain
	// one's.
	ConvertedSuffix = "-rivulet"

	noteImage = "com.github.rivuletfs.image" // of a disk in an index: the manifest that it was made from

	maxImageConfig = 8 << 20 // bytes of an image's configuration
	maxPlatforms   = 1 << 10 // manifests of an image index
)

// unknown is the platform of what is in an image index and no image: clients
// pass over it, as they do with the attestations that builders put there.
var unknown = v1.Platform{OS: "unknown", Architecture: "unknown"}

// Converted writes a converted image: an image index that has the plain image,
// unchanged, and beside it the disk whose block map the generation has. image
// is the tag or digest of the plain image in this repository, and tag where to
// write to; "" is the image's tag and ConvertedSuffix. If the plain image is an
// index itself, the disk joins what that lists, and the disks of its other images
// that are at tag already; of two who write a tag at once, one is lost. The result
// is the digest of the new index.
//
// The disk's manifest lists block map, index and packs, so that it is complete
// for whoever copies it to another repository, and outlives its generation. What is
// said of the block map by now, wraps and signatures, refers to it as well.
func (o *Origin) Converted(ctx context.Context, image string, generation origin.GenerationID, blockMap origin.Digest, tag string) (origin.Digest, error) {
	if tag == "" {
		if _, err := origin.ParseDigest(image); err == nil {
			return origin.Digest{}, fmt.Errorf("convert %s: a digest gives no tag to write to: choose one", image)
		}
		tag = image + ConvertedSuffix
	}
	err := errors.Join(o.client.checkRef(image), o.client.checkRef(tag))
	var d origin.Digest
	if err == nil {
		d, err = o.convert(ctx, image, generation, blockMap, tag)
	}
	if err != nil {
		return d, fmt.Errorf("convert %s: %w", image, err)
	}
	return d, nil
}

func (o *Origin) convert(ctx context.Context, image string, generation origin.GenerationID, blockMap origin.Digest, tag string) (origin.Digest, error) {
	c := o.client
	plain, err := c.imageManifests(ctx, image)
	if err != nil {
		return origin.Digest{}, err
	}
	s := o.generation(generation)
	data, err := s.GetObject(ctx, blockMap, origin.MaxObjectBytes)
	if err != nil {
		return origin.Digest{}, err
	}
	m, err := blockmap.Parse(data)
	if err != nil {
		return origin.Digest{}, err
	}
	from := hashOf(m.Info().Source)
	if !slices.ContainsFunc(plain, func(d v1.Descriptor) bool { return d.Digest == from }) {
		return origin.Digest{}, fmt.Errorf("block map %v is of another image, %v", blockMap, from)
	}
	disk, err := s.putDisk(ctx, m, from)
	if err != nil {
		return origin.Digest{}, err
	}
	if err := s.attachToDisk(ctx, m, disk); err != nil {
		return origin.Digest{}, err
	}
	list, err := c.withOtherDisks(ctx, plain, tag, from)
	if err != nil {
		return origin.Digest{}, err
	}
	b, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: append(list, disk),
	})
	if err != nil {
		return origin.Digest{}, err
	}
	return origin.Sum(b), c.writeManifest(ctx, tag, types.OCIImageIndex, b)
}

// withOtherDisks returns what is listed of an image, without a disk of from, and with
// the disks of other images that an earlier conversion has put at tag.
func (c *client) withOtherDisks(ctx context.Context, listed []v1.Descriptor, tag string, from v1.Hash) ([]v1.Descriptor, error) {
	before, err := c.imageManifests(ctx, tag)
	if err != nil && !errors.Is(err, chunk.ErrNotFound) {
		return nil, fmt.Errorf("what is at %s: %w", tag, err)
	}
	has := map[string]bool{}
	list := slices.DeleteFunc(slices.Clone(listed), func(d v1.Descriptor) bool { return d.ArtifactType == typeDisk })
	for _, d := range list {
		has[d.Digest.String()] = true
	}
	has[from.String()] = false
	for _, d := range slices.Concat(listed, before) {
		of := d.Annotations[noteImage]
		if d.ArtifactType == typeDisk && has[of] {
			list, has[of] = append(list, d), false // one of each
		}
	}
	return list, nil
}

func isDiskOf(d v1.Descriptor, image v1.Hash) bool {
	return d.ArtifactType == typeDisk && d.Annotations[noteImage] == image.String()
}

// putDisk writes the manifest of a disk that stands by itself, and returns its
// entry in an image index.
func (s *Store) putDisk(ctx context.Context, m *blockmap.Map, image v1.Hash) (v1.Descriptor, error) {
	x, err := s.indexOf(ctx, m)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if err := complete(m, &x.index); err != nil {
		return v1.Descriptor{}, err
	}
	encoded := x.encode()
	if err := s.client.ensureBlob(ctx, encoded); err != nil {
		return v1.Descriptor{}, err
	}
	first := []v1.Descriptor{{MediaType: typeBlockMap, Digest: hashOf(m.Digest()), Size: int64(len(m.Bytes()))}}
	disk := packsManifest(typeDisk, 0, first, encoded, &x.index)
	if meta := m.Info().Metadata; meta != (origin.Digest{}) {
		b, err := s.GetObject(ctx, meta, origin.MaxObjectBytes)
		if err == nil {
			disk.Layers = append(disk.Layers, v1.Descriptor{MediaType: mediaBytes, Digest: hashOf(meta), Size: int64(len(b))})
		} else if !errors.Is(err, chunk.ErrNotFound) && !errors.Is(err, origin.ErrCorrupt) { // a disk is whole without it
			return v1.Descriptor{}, err
		}
	}
	disk.Annotations[noteObject], disk.Annotations[noteImage] = m.Digest().String(), image.String()
	b, desc := encodeManifest(disk)
	desc.Platform, desc.Annotations = &unknown, map[string]string{noteImage: image.String()}
	return desc, s.client.writeManifest(ctx, tagPrefix+"d-"+desc.Digest.Hex, disk.MediaType, b)
}

// complete reports a chunk of the disk that the index lacks.
func complete(m *blockmap.Map, x *index) error {
	has := make(map[chunk.ID]bool, len(x.places))
	for _, p := range x.places {
		has[p.id] = true
	}
	for i := range m.Len() {
		if id := m.Chunk(i).ID; !has[id] {
			return fmt.Errorf("chunk %v: %w", id, chunk.ErrNotFound)
		}
	}
	return nil
}

// checkRef reports, by a nil error, whether ref is a tag or a digest.
func (c *client) checkRef(ref string) error {
	if _, err := origin.ParseDigest(ref); err == nil {
		return nil
	}
	if _, err := name.NewTag(c.repo.Name()+":"+ref, name.StrictValidation); err != nil || strings.ContainsAny(ref, "/:") {
		return fmt.Errorf("%.60q is no tag and no digest", ref)
	}
	return nil
}

// imageManifests returns what an image index would list of an image: itself,
// with its platform, or what it lists if it is one.
func (c *client) imageManifests(ctx context.Context, ref string) ([]v1.Descriptor, error) {
	b, media, err := c.readRaw(ctx, ref, nil)
	if err != nil {
		return nil, err
	}
	if media.IsIndex() {
		var list v1.IndexManifest
		if err := json.Unmarshal(b, &list); err != nil || len(list.Manifests) > maxPlatforms {
			return nil, errors.New("malformed image index")
		}
		return list.Manifests, nil
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil || !media.IsImage() {
		return nil, fmt.Errorf("it is no image but a %.60q", media)
	}
	config, err := c.readBlob(ctx, m.Config, maxImageConfig)
	if err != nil {
		return nil, err
	}
	var p v1.Platform
	if err := json.Unmarshal(config, &p); err != nil {
		return nil, errors.New("malformed image configuration")
	}
	desc := v1.Descriptor{MediaType: media, Digest: hashOf(origin.Sum(b)), Size: int64(len(b)), Platform: &p}
	if p.OS == "" && p.Architecture == "" { // an empty platform would be none that a client asks for
		desc.Platform = nil
	}
	return []v1.Descriptor{desc}, nil
}

// OpenConverted returns the block map in a converted image, and the source of
// its disk's chunks. ref is the image's tag or digest in this repository, and
// image the plain manifest that the disk was made from, which matters if there
// are disks of several. An image that has no such disk is chunk.ErrNotFound.
func (o *Origin) OpenConverted(ctx context.Context, ref string, image origin.Digest) ([]byte, chunk.Source, error) {
	data, src, err := o.openConverted(ctx, ref, hashOf(image))
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", ref, err)
	}
	return data, src, nil
}

func (o *Origin) openConverted(ctx context.Context, ref string, image v1.Hash) ([]byte, chunk.Source, error) {
	if err := o.client.checkRef(ref); err != nil {
		return nil, nil, err
	}
	list, err := o.client.imageManifests(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(list, func(d v1.Descriptor) bool { return isDiskOf(d, image) })
	if i < 0 {
		return nil, nil, fmt.Errorf("it has no disk of %v: %w", image, chunk.ErrNotFound)
	}
	m, err := o.client.readManifest(ctx, list[i].Digest.String(), typeDisk)
	if err != nil {
		return nil, nil, err
	}
	if len(m.Layers) < 2 {
		return nil, nil, fmt.Errorf("%w %v: no index", ErrArtifact, m.desc.Digest)
	}
	// A store of its own that knows this disk's chunks, and asks for no others.
	s := newStore(o.client, 0)
	s.loaded = time.Now().Add(1 << 62)
	var data []byte
	err = each(ctx, 2, func(ctx context.Context, i int) error {
		if i == 0 {
			var err error
			data, err = o.client.readBlob(ctx, m.Layers[0], origin.MaxObjectBytes)
			return err
		}
		x, err := o.client.readIndex(ctx, m.Layers[1])
		if err == nil {
			s.merge(m.desc.Digest.String(), x)
		}
		return err
	})
	return data, s, err
}

// BlockMaps calls fn for each block map in this repository whose disk was made
// from the image manifest of digest image, as the registry lists its referrers,
// until fn fails; that error is returned. The block map's manifest says which
// generation has it.
func (o *Origin) BlockMaps(ctx context.Context, image origin.Digest, fn func(generation origin.GenerationID, blockMap origin.Digest) error) error {
	list, err := o.client.referrers(ctx, hashOf(image), typeBlockMap)
	if err != nil {
		return fmt.Errorf("block maps of %v: %w", image, err)
	}
	for _, r := range list {
		m, err := o.client.readManifest(ctx, r.digest.String(), typeBlockMap)
		if errors.Is(err, chunk.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return fmt.Errorf("block maps of %v: %w", image, err)
		}
		generation, err := origin.ParseGenerationID(m.note(noteGeneration))
		d, err2 := digestOf(m.Layers[0].Digest)
		if err = errors.Join(err, err2); err != nil {
			return fmt.Errorf("block maps of %v: %w %v: %w", image, ErrArtifact, r.digest, err)
		}
		if err := fn(generation, d); err != nil {
			return err
		}
	}
	return nil
}
