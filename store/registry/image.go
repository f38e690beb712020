package registry

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// onlyGeneration is the generation that an Image has.
const onlyGeneration origin.GenerationID = 1

// An Image is a converted image (see [Origin.Converted]) as an origin that can only be
// read: all disks that its index lists. The one for this machine's platform, or the only
// one, has the image's reference for a name; the others are found by the digest of the
// plain image that they were made from. Nothing of it depends on the generations of the
// repository, but that what was said of a disk after it was converted is looked for
// there. Any number of calls may run at once.
type Image struct {
	*Store
	at    *Origin
	ref   name.Reference
	disks map[origin.Digest]*storedManifest // by block map
	more  map[origin.Digest]v1.Descriptor   // other objects
	names map[string]origin.Digest          // pointers
}

var _ origin.Origin = (*Image)(nil)

// ParseImageURL reads oci://REGISTRY/REPOSITORY:TAG, or with @DIGEST, and parameters as
// ParseURL has them. is tells whether address means an image at all: one without tag and
// digest is a repository.
func ParseImageURL(address string) (ref name.Reference, opts Options, is bool, err error) {
	rest, ok := strings.CutPrefix(address, Scheme)
	if !ok {
		return nil, opts, false, nil
	}
	at, query, _ := strings.Cut(rest, "?")
	_, path, _ := strings.Cut(at, "/")
	if !strings.ContainsAny(path, ":@") {
		return nil, opts, false, nil
	}
	if _, opts, err = ParseURL(Scheme + "x.example/x?" + query); err != nil {
		return nil, opts, true, err
	}
	nameOpts := []name.Option{name.StrictValidation}
	if opts.Insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	if strings.Contains(at, "@") && !strings.Contains(at, "@sha256:") {
		return nil, opts, true, errors.New("a user or password does not belong into an address: log in with docker login")
	}
	if ref, err = name.ParseReference(at, nameOpts...); err != nil {
		return nil, opts, true, errors.New("want oci://REGISTRY/REPOSITORY, with :TAG or @DIGEST for a converted image")
	}
	return ref, opts, true, nil
}

// OpenImage opens the converted image at a reference. An image that has no disk is
// chunk.ErrNotFound.
func OpenImage(ctx context.Context, ref name.Reference, opts Options) (*Image, error) {
	opts.Ahead, opts.AheadIn = nil, nil
	o, err := Open(ctx, ref.Context().Name(), opts)
	if err != nil {
		return nil, err
	}
	i := &Image{
		Store: newStore(o.client, onlyGeneration), at: o, ref: ref,
		disks: make(map[origin.Digest]*storedManifest), more: make(map[origin.Digest]v1.Descriptor), names: make(map[string]origin.Digest),
	}
	i.loaded = time.Now().Add(1 << 62) // of chunks that no index of the image has, nobody is asked
	if err := i.load(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", ref, err)
	}
	return i, nil
}

// load reads which disks there are.
func (i *Image) load(ctx context.Context) error {
	list, err := i.client.imageManifests(ctx, i.ref.Identifier())
	if err != nil {
		return err
	}
	platforms := make(map[string]*v1.Platform)
	var disks []v1.Descriptor
	for _, d := range list {
		if d.ArtifactType == typeDisk {
			disks = append(disks, d)
		} else {
			platforms[d.Digest.String()] = d.Platform
		}
	}
	manifests := make([]*storedManifest, len(disks))
	err = each(ctx, len(disks), func(ctx context.Context, n int) (err error) {
		manifests[n], err = i.client.readManifest(ctx, disks[n].Digest.String(), typeDisk)
		if err == nil && len(manifests[n].Layers) < 2 {
			err = fmt.Errorf("%w %v: no index", ErrArtifact, disks[n].Digest)
		}
		return err
	})
	if err != nil {
		return err
	}
	for n, m := range manifests {
		d, err := digestOf(m.Layers[0].Digest)
		if err != nil {
			return fmt.Errorf("%w %v: %w", ErrArtifact, m.desc.Digest, err)
		}
		i.disks[d] = m
		for _, l := range m.Layers[2:] {
			if object, err := digestOf(l.Digest); err == nil && l.MediaType == mediaBytes {
				i.more[object] = l
			}
		}
		from := disks[n].Annotations[noteImage]
		if source, err := origin.ParseDigest(from); err == nil {
			i.names[catalog.DigestKey(source)] = d
		}
		p := platforms[from]
		if len(disks) == 1 || p != nil && p.OS == "linux" && p.Architecture == runtime.GOARCH && i.names[i.nameKey()] == (origin.Digest{}) {
			i.names[i.nameKey()] = d
		}
	}
	if len(disks) == 0 {
		return fmt.Errorf("it has no disk: 'rivulet publish --converted' writes images that have: %w", chunk.ErrNotFound)
	}
	return nil
}

func (i *Image) nameKey() string { return catalog.NameKey(i.ref.Name()) }

// Generation implements [origin.Origin]: the image is generation 1, and others are empty.
func (i *Image) Generation(id origin.GenerationID) origin.Store {
	if id == onlyGeneration {
		return i
	}
	none := &Image{Store: newStore(i.client, id), at: i.at, ref: i.ref}
	none.loaded = i.loaded
	return none
}

// GetObject implements [origin.Objects].
func (i *Image) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	data, err := i.getObject(ctx, d, max)
	if err != nil {
		return nil, fmt.Errorf("get object %v: %w", d, err)
	}
	return data, nil
}

func (i *Image) getObject(ctx context.Context, d origin.Digest, max int64) (data []byte, err error) {
	if l, ok := i.more[d]; ok {
		return i.client.readBlob(ctx, l, min(max, origin.MaxObjectBytes))
	}
	m := i.disks[d]
	if m == nil {
		return nil, chunk.ErrNotFound
	}
	err = each(ctx, 2, func(ctx context.Context, n int) (err error) {
		if n == 0 {
			data, err = i.client.readBlob(ctx, m.Layers[0], min(max, origin.MaxObjectBytes))
			return err
		}
		x, err := i.client.readIndex(ctx, m.Layers[1])
		if err == nil {
			i.merge(m.desc.Digest.String(), x)
		}
		return err
	})
	return data, err
}

// Fetch implements [chunk.Source].
func (i *Image) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if err := i.know(ctx, id); err != nil {
		return 0, err
	}
	return i.Store.Fetch(ctx, id, dst, off)
}

// Stat implements [chunk.Prober].
func (i *Image) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	if err := i.know(ctx, id); err != nil {
		return 0, err
	}
	return i.Store.Stat(ctx, id)
}

// Request implements [origin.Requester].
func (i *Image) Request(ctx context.Context, id chunk.ID) (origin.Request, error) {
	if err := i.know(ctx, id); err != nil {
		return origin.Request{}, err
	}
	return i.Store.Request(ctx, id)
}

// List implements [chunk.Lister].
func (i *Image) List(ctx context.Context, fn func(id chunk.ID, size int64) error) error {
	if err := i.know(ctx, chunk.ID{}); err != nil {
		return err
	}
	return i.Store.List(ctx, fn)
}

// know reads the indexes of all disks if a chunk is not known: who has kept a block map
// may ask for chunks first.
func (i *Image) know(ctx context.Context, id chunk.ID) error {
	if _, ok := i.known(id); ok {
		return nil
	}
	for d, m := range i.disks {
		i.mu.Lock()
		src := i.sources[m.desc.Digest.String()]
		i.mu.Unlock()
		if src != nil && src.read {
			continue
		}
		x, err := i.client.readIndex(ctx, m.Layers[1])
		if err != nil {
			return fmt.Errorf("where the chunks of %v lie: %w", d, err)
		}
		i.merge(m.desc.Digest.String(), x)
	}
	return nil
}

// ListObjects implements [origin.Objects].
func (i *Image) ListObjects(_ context.Context, fn func(d origin.Digest, size int64) error) error {
	for d, m := range i.disks {
		if err := fn(d, m.Layers[0].Size); err != nil {
			return err
		}
	}
	for d, l := range i.more {
		if err := fn(d, l.Size); err != nil {
			return err
		}
	}
	return nil
}

// ListAttachments implements [origin.Attachments]: those that the disk was converted
// with, and those that its block map has in the repository's generations.
func (i *Image) ListAttachments(ctx context.Context, d origin.Digest, kind string, fn func(data []byte) error) error {
	m := i.disks[d]
	if m == nil {
		return origin.ValidKind(kind)
	}
	seen := make(map[origin.Digest]bool)
	once := func(data []byte) error {
		if seen[origin.Sum(data)] {
			return nil
		}
		seen[origin.Sum(data)] = true
		return fn(data)
	}
	at := &Store{id: 0, pointers: pointers{client: i.client}}
	own, err := at.listed(ctx, d, kind, m.desc)
	if err == nil {
		err = at.tell(ctx, own, d, kind, once)
	}
	if err != nil {
		return fmt.Errorf("attachments %s of %v: %w", kind, d, err)
	}
	image, err := origin.ParseDigest(m.note(noteImage))
	if err != nil {
		return nil
	}
	return i.at.BlockMaps(ctx, image, func(g origin.GenerationID, other origin.Digest) error {
		if other != d {
			return nil
		}
		return i.at.generation(g).ListAttachments(ctx, d, kind, once)
	})
}

// GetPointer implements [origin.Pointers].
func (i *Image) GetPointer(_ context.Context, key string) ([]byte, error) {
	if err := origin.ValidName(key); err != nil {
		return nil, err
	}
	d, ok := i.names[key]
	if !ok {
		return nil, fmt.Errorf("get pointer %s: %w", key, chunk.ErrNotFound)
	}
	return catalog.Value(d), nil
}

// ListPointers implements [origin.Pointers].
func (i *Image) ListPointers(_ context.Context, prefix string, fn func(name string) error) error {
	var keys []string
	for key := range i.names {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := fn(key); err != nil {
			return err
		}
	}
	return nil
}

// ListGenerations implements [origin.Origin].
func (i *Image) ListGenerations(_ context.Context, fn func(id origin.GenerationID) error) error {
	return fn(onlyGeneration)
}

func (i *Image) refuse(op string) error {
	return fmt.Errorf("%s: %s is an image: leave out its tag or digest to write into the repository: %w", op, i.ref, origin.ErrReadOnly)
}

// Put implements [chunk.Sink]: it fails with origin.ErrReadOnly, as all that writes.
func (i *Image) Put(context.Context, chunk.ID, []byte) (bool, error) {
	return false, i.refuse("put chunk")
}

// Flush implements [chunk.Sink].
func (i *Image) Flush(ctx context.Context) error { return ctx.Err() }

// Remove implements [chunk.Remover].
func (i *Image) Remove(context.Context, chunk.ID) error { return i.refuse("remove chunk") }

// PutObject implements [origin.Objects].
func (i *Image) PutObject(context.Context, []byte) (origin.Digest, error) {
	return origin.Digest{}, i.refuse("put object")
}

// RemoveObject implements [origin.Objects].
func (i *Image) RemoveObject(context.Context, origin.Digest) error { return i.refuse("remove object") }

// Attach implements [origin.Attachments].
func (i *Image) Attach(context.Context, origin.Digest, string, []byte) error {
	return i.refuse("attach")
}

// SwapPointer implements [origin.Pointers].
func (i *Image) SwapPointer(_ context.Context, key string, _, _ []byte) error {
	return i.refuse("swap pointer " + key)
}

// DeleteGeneration implements [origin.Origin].
func (i *Image) DeleteGeneration(context.Context, origin.GenerationID, func(removed int)) error {
	return i.refuse("delete generation")
}

// CopyChunk implements [origin.Origin].
func (i *Image) CopyChunk(context.Context, chunk.ID, origin.GenerationID, origin.GenerationID) (bool, error) {
	return false, i.refuse("copy chunk")
}

// attachToDisk makes what is said of a block map so far be said of its disk in a
// converted image as well, which may be copied to where the generation is not.
func (s *Store) attachToDisk(ctx context.Context, m *blockmap.Map, disk v1.Descriptor) error {
	d := m.Digest()
	desc, there, err := s.artifact(ctx, d)
	if err != nil || !there {
		return err
	}
	_, stand := encodeManifest(subjectManifest(s.id, d))
	at := &Store{id: 0, pointers: pointers{client: s.client}}
	disk.Platform, disk.Annotations = nil, nil
	for _, subject := range []v1.Descriptor{desc, stand} {
		all, err := s.client.referrers(ctx, subject.Digest, "")
		if err != nil {
			return err
		}
		for _, r := range all {
			kind, is := strings.CutPrefix(r.artifact, typeAttachment)
			if !is || origin.ValidKind(kind) != nil {
				continue
			}
			data, err := s.readAttachment(ctx, r.digest, kind)
			if err == nil && data != nil {
				out := at.attachmentManifest(d, kind, disk, data)
				_, made := encodeManifest(out)
				if err = s.client.ensureBlob(ctx, data); err == nil {
					_, err = s.client.writeReferrer(ctx, tagPrefix+"t-"+made.Digest.Hex, out)
				}
			}
			if err != nil {
				return fmt.Errorf("attachment %v: %w", r.digest, err)
			}
		}
	}
	return nil
}
