package registry

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// blockMap returns a block map of those chunks, as if made from an image.
func blockMap(t testing.TB, image origin.Digest, list []chunktest.Object) []byte {
	t.Helper()
	info := &blockmap.Info{Layout: 1, Size: int64(len(list)) << 19, ChunkLog2: 19, FrameLog2: 16, Source: image, Disk: image}
	chunks := make([]blockmap.Chunk, len(list))
	for i, c := range list {
		chunks[i] = blockmap.Chunk{Index: uint32(i), Stored: uint32(len(c.Bytes)), Size: c.Header.Size, ID: c.ID}
	}
	b, err := blockmap.Encode(info, chunks)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pushImage pushes an image with a platform to a tag of o's repository.
func pushImage(t testing.TB, o *Origin, tag, arch string) (name.Tag, origin.Digest) {
	t.Helper()
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	ref := o.client.repo.Tag(tag)
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	d, err := digestOf(h)
	if err != nil {
		t.Fatal(err)
	}
	return ref, d
}

// publishDisk puts chunks and a block map of an image, which the result
// names.
func publishDisk(t testing.TB, s origin.Store, image origin.Digest, list []chunktest.Object) origin.Digest {
	t.Helper()
	putAll(t, s, list)
	d, err := s.PutObject(context.Background(), blockMap(t, image, list))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func testBlockMapRefers(t *testing.T, host string) {
	ctx := context.Background()
	o := openAt(t, host, Options{})
	ref, image := pushImage(t, o, "3.12", "amd64")
	list := small(1, 20)
	d := publishDisk(t, o.Generation(3), image, list)
	other := publishDisk(t, o.Generation(3), origin.Sum([]byte("an image elsewhere")), list)
	for _, data := range []string{"a wrap", "another"} {
		attach(t, o.Generation(3), d, "age", data)
	}
	got := blockMaps(t, openRepo(t, o.Repository(), Options{}), image)
	if !slices.Equal(got, []origin.Digest{d}) {
		t.Errorf("block maps of the image: %v, want %v", got, d)
	}
	if got := blockMaps(t, o, other); len(got) != 0 {
		t.Errorf("block maps of what is no image: %v", got)
	}
	if desc, err := remote.Head(ref); err != nil || desc.Digest != hashOf(image) {
		t.Errorf("the image's tag leads to %v, %v; want %v", desc, err, image)
	}
	if err := o.Generation(3).RemoveObject(ctx, d); err != nil {
		t.Fatal(err)
	}
	if got := blockMaps(t, o, image); len(got) != 0 {
		t.Errorf("after removing it: %v", got)
	}
}

func blockMaps(t testing.TB, o *Origin, image origin.Digest) (got []origin.Digest) {
	t.Helper()
	err := o.BlockMaps(context.Background(), image, func(generation origin.GenerationID, d origin.Digest) error {
		if generation != 3 {
			t.Errorf("block map %v is of generation %v", d, generation)
		}
		got = append(got, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func attach(t testing.TB, s origin.Store, d origin.Digest, kind, data string) {
	t.Helper()
	if err := s.Attach(context.Background(), d, kind, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// TestAttachIsFewRequests counts what a host asks to serve a disk of many
// chunks: the manifests, one of which has the index, and the block map, then one read each.
func TestAttachIsFewRequests(t *testing.T) {
	ctx := context.Background()
	f, host := faulty(t, true)
	o := hasty(t, host, Options{PackBytes: 100_000})
	list := small(1, 1000)
	d := publishDisk(t, o.Generation(1), origin.Digest{}, list)
	attach(t, o.Generation(1), d, "age", "a wrap")

	f.Reset()
	o = reopen(t, o) // asks once how to log in
	s := o.Generation(1)
	if _, err := s.GetObject(ctx, d, origin.MaxObjectBytes); err != nil {
		t.Fatal(err)
	}
	if n := f.Requests.Load(); n != 1+3 {
		t.Errorf("block map and index took %d requests, want 4: %v", n, f)
	}
	n := 0
	if err := s.ListAttachments(ctx, d, "age", func([]byte) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("%d wraps, %v", n, err)
	}
	// Lists are asked for twice. Tags that stand for them are no more wanted once there is a list.
	if n := int(f.Requests.Load()) - f.Count(http.MethodGet, "/manifests/sha256-"); n != 1+3+4 {
		t.Errorf("with a key, %d requests, want 8: %v", n, f)
	}
	f.Reset()
	checkDoor(t, o, list[:100], false)
	if n := f.Requests.Load(); n != 100 {
		t.Errorf("reading 100 chunks took %d requests: %v", n, f)
	}
}

// TestIndexOfRemovedChunk checks that a disk's own index does not lead to the
// old place of a chunk that was removed and put anew.
func TestIndexOfRemovedChunk(t *testing.T) {
	ctx := context.Background()
	for _, referrers := range []bool{true, false} {
		_, host := faulty(t, referrers)
		o := hasty(t, host, Options{})
		s := o.Generation(1)
		list := small(1, 10)
		d := publishDisk(t, s, origin.Digest{}, list)
		attach(t, s, d, "age", "a wrap")
		before := o.generation(1).places[list[3].ID]
		if err := s.Remove(ctx, list[3].ID); err != nil {
			t.Fatal(err)
		}
		again := reopen(t, o)
		if _, err := again.Generation(1).GetObject(ctx, d, origin.MaxObjectBytes); err != nil {
			t.Fatal(err)
		}
		if _, err := again.Generation(1).Stat(ctx, list[3].ID); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("Stat of a removed chunk: %v", err)
		}
		putAll(t, s, list)
		flush(t, s)
		if after := o.generation(1).places[list[3].ID]; after.blob == before.blob {
			t.Error("the chunk is where it was")
		}
		checkDoor(t, again, list, false)
		if _, err := s.PutObject(ctx, blockMap(t, origin.Digest{}, list)); err != nil { // brings its index up to date
			t.Fatal(err)
		}
		again = reopen(t, o)
		if _, err := again.Generation(1).GetObject(ctx, d, origin.MaxObjectBytes); err != nil {
			t.Fatal(err)
		}
		if l := again.generation(1).places[list[3].ID]; !l.valid() {
			t.Error("the disk's index lacks the chunk that was put anew")
		}
		n := 0
		if err := again.Generation(1).ListAttachments(ctx, d, "age", func([]byte) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("%d wraps are left, %v", n, err)
		}
	}
}

// TestAttachedBeforeAndAfter attaches to an object before it is there, too.
func TestAttachedBeforeAndAfter(t *testing.T) {
	ctx := context.Background()
	for _, referrers := range []bool{true, false} {
		_, host := faulty(t, referrers)
		o := hasty(t, host, Options{})
		s := o.Generation(1)
		data := []byte("an object")
		d := origin.Sum(data)
		attach(t, s, d, "note", "before")
		if _, err := s.PutObject(ctx, data); err != nil {
			t.Fatal(err)
		}
		attach(t, s, d, "note", "after")
		attach(t, s, d, "note", "before") // again, to another manifest
		for _, o := range []*Origin{o, reopen(t, o)} {
			var got []string
			err := o.Generation(1).ListAttachments(ctx, d, "note", func(b []byte) error { got = append(got, string(b)); return nil })
			slices.Sort(got)
			if err != nil || !slices.Equal(got, []string{"after", "before"}) {
				t.Errorf("attachments %q, %v", got, err)
			}
		}
		if err := o.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
			t.Fatal(err)
		}
		if left := tagsOf(t, o); len(left) != 0 {
			t.Errorf("tags left of a deleted generation: %q", left)
		}
	}
}

func tagsOf(t testing.TB, o *Origin) (all []string) {
	t.Helper()
	if err := o.client.tags(context.Background(), "", func(tag string) { all = append(all, tag) }); err != nil {
		t.Fatal(err)
	}
	return all
}

// testConverted checks what clients that know nothing of rivulet see, and that
// the disk in a converted image is complete by itself.
func testConverted(t *testing.T, host string) {
	ctx := context.Background()
	o := openAt(t, host, Options{})
	ref, image := pushImage(t, o, "3.12", "arm64")
	plain, err := remote.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	list := small(1, 20)
	d := publishDisk(t, o.Generation(3), image, list)
	var first origin.Digest
	for range 2 { // converting again changes nothing
		got, err := o.Converted(ctx, "3.12", 3, d, "")
		if err != nil {
			t.Fatal(err)
		}
		if first == (origin.Digest{}) {
			first = got
		}
		if got != first {
			t.Errorf("converted to %v, then to %v", first, got)
		}
	}
	if now, err := remote.Get(ref); err != nil || !bytes.Equal(now.Manifest, plain.Manifest) {
		t.Errorf("the plain image changed: %v", err)
	}
	converted := o.client.repo.Tag("3.12-rivulet")
	got, err := remote.Image(converted, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"}))
	if err != nil {
		t.Fatal(err)
	}
	if h, err := got.Digest(); err != nil || h != hashOf(image) {
		t.Errorf("a client gets %v, %v; want %v", h, err, image)
	}
	if err := o.DeleteGeneration(ctx, 3, func(int) {}); err != nil {
		t.Fatal(err)
	}
	checkConverted(t, openRepo(t, o.Repository(), Options{}), "3.12-rivulet", image, list)
}

// checkConverted reads the disk in a converted image.
func checkConverted(t testing.TB, o *Origin, ref string, image origin.Digest, list []chunktest.Object) {
	t.Helper()
	ctx := context.Background()
	b, src, err := o.OpenConverted(ctx, ref, image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, blockMap(t, image, list)) {
		t.Error("it has another block map")
	}
	door := chunk.NewDoor(src)
	for _, c := range list {
		got := make([]byte, len(c.Bytes))
		if n, err := door.ReadChunk(ctx, c.ID, got, 0); err != nil || !bytes.Equal(got[:n], c.Bytes) {
			t.Fatalf("chunk %v: %v, or wrong bytes", c.ID, err)
		}
	}
	if _, err := src.Fetch(ctx, chunktest.Absent, make([]byte, 10), 0); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a chunk that the disk lacks: %v; want ErrNotFound", err)
	}
}

// TestConvertedIndex converts an image of two platforms, one after the other.
func TestConvertedIndex(t *testing.T) {
	ctx := context.Background()
	_, host := faulty(t, true)
	o := hasty(t, host, Options{})
	index := v1.ImageIndex(empty.Index)
	images := map[string]origin.Digest{}
	for _, arch := range []string{"amd64", "arm64"} {
		ref, d := pushImage(t, o, "only-"+arch, arch)
		img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
		images[arch] = d
	}
	if err := remote.WriteIndex(o.client.repo.Tag("both"), index); err != nil {
		t.Fatal(err)
	}
	lists := map[string][]chunktest.Object{"amd64": small(1, 5), "arm64": small(2, 7)}
	for _, arch := range []string{"amd64", "arm64"} {
		d := publishDisk(t, o.Generation(1), images[arch], lists[arch])
		if _, err := o.Converted(ctx, "both", 1, d, "lazy"); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{"both", "lazy"} { // again, and of what is converted
		d := publishDisk(t, o.Generation(1), images["amd64"], lists["amd64"])
		if _, err := o.Converted(ctx, from, 1, d, "lazy"); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := o.client.imageManifests(ctx, "lazy"); err != nil || len(list) != 4 {
		t.Errorf("%d manifests, %v; want two images and their disks", len(list), err)
	}
	for arch, image := range images {
		img, err := remote.Image(o.client.repo.Tag("lazy"), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		if h, err := img.Digest(); err != nil || h != hashOf(image) {
			t.Errorf("%s: a client gets %v, %v", arch, h, err)
		}
		checkConverted(t, reopen(t, o), "lazy", image, lists[arch])
	}
	stranger := publishDisk(t, o.Generation(1), origin.Sum([]byte("another image")), small(1, 5))
	if _, err := o.Converted(ctx, "both", 1, stranger, "bad"); err == nil {
		t.Error("the disk of another image is taken")
	}
	if _, err := o.Converted(ctx, images["amd64"].String(), 1, stranger, ""); err == nil {
		t.Error("a digest is converted to no tag")
	}
	for _, bad := range []string{"", "../blobs/x", "a/b", "a:b", "a?b", "sha256:00"} {
		if _, _, err := o.OpenConverted(ctx, bad, origin.Digest{}); err == nil || !strings.Contains(err.Error(), "no tag") {
			t.Errorf("OpenConverted of %q: %v", bad, err)
		}
		if _, err := o.Converted(ctx, "both", 1, stranger, "x/"+bad); err == nil || !strings.Contains(err.Error(), "no tag") {
			t.Errorf("Converted to %q: %v", bad, err)
		}
	}
	if _, _, err := o.OpenConverted(ctx, "both", images["amd64"]); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a disk in a plain image: %v; want ErrNotFound", err)
	}
}

// testAdopt moves chunks between repositories of one registry.
func testAdopt(t *testing.T, host string, mounts bool) {
	ctx := context.Background()
	from, to := openAt(t, host, Options{PackBytes: 10_000}), openAt(t, host, Options{})
	list := small(1, 30)
	putAll(t, from.Generation(1), list)
	flush(t, from.Generation(1))
	for i, c := range list {
		added, err := to.generation(2).Adopt(ctx, c.ID, from.generation(1))
		if !mounts {
			if !errors.Is(err, ErrNotMounted) {
				t.Fatalf("Adopt = %v, %v; want ErrNotMounted", added, err)
			}
			continue
		}
		if err != nil || !added {
			t.Fatalf("Adopt %d = %v, %v", i, added, err)
		}
	}
	if !mounts {
		return
	}
	flush(t, to.Generation(2))
	if added, err := to.generation(2).Adopt(ctx, list[0].ID, from.generation(1)); err != nil || added {
		t.Errorf("Adopt again = %v, %v", added, err)
	}
	if _, err := to.generation(2).Adopt(ctx, chunktest.Absent, from.generation(1)); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Adopt of an absent chunk: %v", err)
	}
	if err := from.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	again := openRepo(t, to.Repository(), Options{})
	door := chunk.NewDoor(again.Generation(2))
	for _, c := range list {
		got := make([]byte, len(c.Bytes))
		if n, err := door.ReadChunk(ctx, c.ID, got, 0); err != nil || !bytes.Equal(got[:n], c.Bytes) {
			t.Fatalf("chunk %v: %v, or wrong bytes", c.ID, err)
		}
	}
}

// TestRegistryCollects lets a real registry collect garbage when a generation
// whose packs another one leads to was deleted.
func TestRegistryCollects(t *testing.T) {
	ctx := context.Background()
	server := registrytest.Distribution(t)
	o := openAt(t, server.Addr, Options{PackBytes: 10_000})
	_, image := pushImage(t, o, "3.12", "amd64")
	kept, dropped := small(1, 30), small(2, 30)
	d := publishDisk(t, o.Generation(1), image, kept)
	publishDisk(t, o.Generation(1), origin.Digest{}, dropped)
	attach(t, o.Generation(1), d, "age", "old")
	for _, c := range kept {
		if _, err := o.CopyChunk(ctx, c.ID, 1, 3); err != nil {
			t.Fatal(err)
		}
	}
	if got := publishDisk(t, o.Generation(3), image, kept); got != d {
		t.Fatalf("the block map is %v now, not %v", got, d)
	}
	attach(t, o.Generation(3), d, "age", "a wrap")
	if _, err := o.Converted(ctx, "3.12", 3, d, ""); err != nil {
		t.Fatal(err)
	}
	var gone origin.Digest
	if l, ok := o.generation(1).known(dropped[29].ID); ok {
		gone = l.blob.digest
	}
	if err := o.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	server.Collect(t)
	o = openRepo(t, o.Repository(), Options{})
	if _, err := o.client.statBlob(ctx, gone); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a pack that nothing leads to: %v; want ErrNotFound", err)
	}
	s := o.Generation(3)
	if _, err := s.GetObject(ctx, d, origin.MaxObjectBytes); err != nil {
		t.Fatal(err)
	}
	door := chunk.NewDoor(s)
	for _, c := range kept {
		got := make([]byte, len(c.Bytes))
		if n, err := door.ReadChunk(ctx, c.ID, got, 0); err != nil || !bytes.Equal(got[:n], c.Bytes) {
			t.Fatalf("chunk %v: %v, or wrong bytes", c.ID, err)
		}
	}
	var wraps []string
	err := s.ListAttachments(ctx, d, "age", func(b []byte) error { wraps = append(wraps, string(b)); return nil })
	if err != nil || !slices.Equal(wraps, []string{"a wrap"}) {
		t.Errorf("wraps %q, %v", wraps, err)
	}
	if got := blockMaps(t, o, image); !slices.Equal(got, []origin.Digest{d}) {
		t.Errorf("block maps of the image: %v", got)
	}
	checkConverted(t, o, "3.12-rivulet", image, kept)
}
