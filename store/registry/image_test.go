package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// onServers calls fn with the repository of an origin on each of two real servers.
// collect lets the server collect its own garbage, if it does such a thing.
func onServers(t *testing.T, fn func(t *testing.T, repo string, collect func())) {
	t.Run("Distribution", func(t *testing.T) {
		server := registrytest.Distribution(t)
		fn(t, server.Addr+"/lab/app", func() { server.Collect(t) })
	})
	t.Run("OCI", func(t *testing.T) { fn(t, registrytest.OCI(t)+"/lab/app", func() {}) })
}

func publishAs(t testing.TB, o origin.Origin, name, src string) *publish.Result {
	t.Helper()
	options := publish.Options{Salt: testSalt, Signer: testSigner, Open: true, Name: name, TempDir: t.TempDir()}
	r, err := publish.Image(context.Background(), o, []string{src}, options)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sameChunks reads all chunks of m, which are those of the image "it" in plain.
func sameChunks(t *testing.T, m *blockmap.Map, src chunk.Source, plain origin.Origin) {
	t.Helper()
	ctx := context.Background()
	door, want := chunk.NewDoor(src), plain.Generation(1)
	for i := range m.Len() {
		c := m.Chunk(i)
		a, b := make([]byte, c.Stored), make([]byte, c.Stored)
		n, err := door.ReadChunk(ctx, c.ID, a, 0)
		if err == nil {
			_, err = want.Fetch(ctx, c.ID, b, 0)
		}
		if err != nil || n != len(a) || !bytes.Equal(a, b) {
			t.Fatalf("chunk %v: %d bytes, %v, or other ones", c.ID, n, err)
		}
	}
	if m.Len() == 0 {
		t.Fatal("no chunks")
	}
}

// TestCollect publishes two images, takes the name of one away, and lets collectors
// work until the generation that both were published into is erased. Before and
// after each run, and when the registry has collected its garbage too, the other
// image reads as in another store.
func TestCollect(t *testing.T) {
	ctx := context.Background()
	onServers(t, func(t *testing.T, repo string, collect func()) {
		plain := memory.New()
		src := pushRandom(t, repo+":1", 3)
		published, want := publishAs(t, open(t, repo), "it", src), publishAs(t, plain, "it", src)
		other := publishAs(t, open(t, repo), "other", pushRandom(t, repo+":2", 2))
		if published.Digest != want.Digest {
			t.Fatalf("disk %s, want %s", published.Digest, want.Digest)
		}
		now := time.Now()
		view := func() *generation.View {
			return generation.NewView(open(t, repo), generation.Options{Now: func() time.Time { return now }})
		}
		staying, err := view().Attach(ctx, "it") // a reader that follows its image
		if err == nil {
			err = view().Remove(ctx, "other")
		}
		if err != nil {
			t.Fatal(err)
		}
		var deleted []origin.GenerationID
		for range 8 {
			c := &gc.Collector{Origin: open(t, repo), Policy: gc.DefaultPolicy, Now: func() time.Time { return now }}
			r, err := c.Run(ctx)
			if err != nil || len(r.Lost) > 0 || len(r.Alarms) > 0 {
				t.Fatalf("gc: %+v, %v", r, err)
			}
			deleted = append(deleted, r.Deleted...)
			found, err := view().Open(ctx, "it")
			if err != nil {
				t.Fatal(err)
			}
			sameChunks(t, found.Map, found, plain)
			sameChunks(t, staying.Map, staying, plain)
			now = now.Add(8 * 24 * time.Hour)
		}
		if len(deleted) == 0 || deleted[0] != 1 {
			t.Fatalf("generations %v are deleted, want 1 among them", deleted)
		}
		collect()
		found, err := view().Open(ctx, published.Digest)
		if err != nil || found.Generation() == 1 {
			t.Fatalf("found in generation %v, %v", found.Generation(), err)
		}
		sameChunks(t, found.Map, found, plain)
		sameChunks(t, staying.Map, staying, plain)
		if again := publishAs(t, open(t, repo), "it", src); again.NewChunks != 0 || again.BlockMap != published.BlockMap {
			t.Errorf("published again: %+v", again)
		}
		if _, err := view().Open(ctx, other.Digest); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("the image that nobody wanted: %v; want ErrNotFound", err)
		}
		pullsPlain(t, repo, src)
	})
}

// pullsPlain pulls the image at ref as a client does that knows nothing of
// rivulet, for this platform, and compares it with that of the tag 1.
func pullsPlain(t *testing.T, repo, ref string) {
	t.Helper()
	var images [2]v1.Image
	for i, s := range []string{repo + ":1", ref} {
		tag, err := name.NewTag(s)
		if err == nil {
			images[i], err = remote.Image(tag, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
		}
		if err == nil {
			err = readLayers(images[i])
		}
		if err != nil {
			t.Fatalf("pull %s: %v", s, err)
		}
	}
	want, err := images[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := images[1].Digest(); err != nil || got != want {
		t.Errorf("%s is %v, %v; want %v", ref, got, err, want)
	}
}

// readLayers reads all of an image; what it is read by checks digests.
func readLayers(img v1.Image) error {
	layers, err := img.Layers()
	if err == nil && len(layers) == 0 {
		err = errors.New("no layers")
	}
	for _, l := range layers {
		var r io.ReadCloser
		if err == nil {
			r, err = l.Compressed()
		}
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			err = errors.Join(err, r.Close())
		}
	}
	return err
}

// TestConvert publishes an image that is in the registry, and puts its disk beside
// it in an index: other clients pull the image as it was from both tags, and the
// disk reads from the index, also when the generation that it was in is gone.
func TestConvert(t *testing.T) {
	ctx := context.Background()
	onServers(t, func(t *testing.T, repo string, collect func()) {
		plain := memory.New()
		src := pushRandom(t, repo+":1", 3)
		o := open(t, repo).(*registry.Origin)
		published := publishAs(t, o, "it", src)
		publishAs(t, plain, "it", src)
		d, err := origin.ParseDigest(published.BlockMap)
		if err != nil {
			t.Fatal(err)
		}
		image, err := origin.ParseDigest(published.SourceDigest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Converted(ctx, "1", 1, d, ""); err != nil {
			t.Fatal(err)
		}
		check := func() {
			t.Helper()
			pullsPlain(t, repo, src+registry.ConvertedSuffix)
			b, chunks, err := open(t, repo).(*registry.Origin).OpenConverted(ctx, "1"+registry.ConvertedSuffix, image)
			if err != nil {
				t.Fatal(err)
			}
			m, err := blockmap.Parse(b)
			if err != nil || m.Digest() != d {
				t.Fatalf("block map %v, %v; want %v", m, err, d)
			}
			sameChunks(t, m, chunks, plain)
			checkImage(t, repo+":1"+registry.ConvertedSuffix, published, plain)
		}
		check()
		if err := o.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
			t.Fatal(err)
		}
		collect()
		check()
	})
}

// checkImage reads the converted image at ref as an origin.
func checkImage(t *testing.T, ref string, published *publish.Result, plain origin.Origin) {
	t.Helper()
	ctx := context.Background()
	parsed, opts, is, err := registry.ParseImageURL(registry.Scheme + ref)
	if err != nil || !is {
		t.Fatalf("%s: an image: %v, %v", ref, is, err)
	}
	i, err := registry.OpenImage(ctx, parsed, opts)
	if err != nil {
		t.Fatal(err)
	}
	v := generation.NewView(i, generation.Options{})
	for _, name := range []string{parsed.Name(), published.SourceDigest, published.BlockMap} {
		img, err := v.Open(ctx, name)
		if err != nil || img.Map.Digest().String() != published.BlockMap {
			t.Fatalf("%s: %v", name, err)
		}
	}
	fresh, err := registry.OpenImage(ctx, parsed, opts) // of which nobody has read the block map
	if err != nil {
		t.Fatal(err)
	}
	img, err := v.Open(ctx, published.BlockMap)
	if err != nil {
		t.Fatal(err)
	}
	sameChunks(t, img.Map, fresh, plain)
	if _, err := sign.Require(ctx, img.Map, i, testSigner.Public()); err != nil {
		t.Errorf("the signature did not come along: %v", err)
	}
	if n, err := i.Stat(ctx, img.Map.Chunk(0).ID); err != nil || n != int64(img.Map.Chunk(0).Stored) {
		t.Errorf("a chunk has %d bytes, %v", n, err)
	}
	if _, err := i.Stat(ctx, chunk.ID{}); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("no chunk of it: %v; want ErrNotFound", err)
	}
	if r, err := fsck.Check(ctx, i, fsck.Options{Deep: true}); err != nil || !r.Sound() || r.Images != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	none := origin.Sum(nil)
	_, put := i.Put(ctx, chunk.ID{}, nil)
	_, object := i.PutObject(ctx, nil)
	_, copied := i.CopyChunk(ctx, chunk.ID{}, 1, 2)
	for what, err := range map[string]error{
		"Put": put, "PutObject": object, "CopyChunk": copied, "Remove": i.Remove(ctx, chunk.ID{}), "RemoveObject": i.RemoveObject(ctx, none),
		"Attach": i.Attach(ctx, none, "note", nil), "SwapPointer": i.SwapPointer(ctx, "p", nil, nil), "DeleteGeneration": i.DeleteGeneration(ctx, 1, nil),
	} {
		if !errors.Is(err, origin.ErrReadOnly) {
			t.Errorf("%s: %v; want ErrReadOnly", what, err)
		}
	}
	if _, err := registry.OpenImage(ctx, parsed.Context().Tag("1"), opts); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a plain image: %v; want ErrNotFound", err)
	}
	if _, err := registry.OpenImage(ctx, parsed.Context().Tag("none"), opts); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a tag that is not there: %v; want ErrNotFound", err)
	}
}

func FuzzParseImageURL(f *testing.F) {
	for _, s := range []string{
		"oci://h.example/a:tag", "oci://h.example:5000/a/b@sha256:89ed547f2b848143881ca757209a8e58459adde6bca4129f6772a227359620c5?insecure=true&ca=/f",
		"oci://h.example/a", "oci://u:p@h.example/a:t", "oci:x:y", "oci://h/a:b?connections=-1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, _, is, err := registry.ParseImageURL(s)
		if is == (ref == nil && err == nil) {
			t.Fatalf("%q: %v, %v, %v", s, ref, is, err)
		}
		if ref == nil || err != nil {
			return
		}
		if again, _, is, err := registry.ParseImageURL(registry.Scheme + ref.Name()); err != nil || !is || again.Name() != ref.Name() {
			t.Fatalf("%q is %s, and that is %v, %v", s, ref.Name(), again, err)
		}
	})
}
