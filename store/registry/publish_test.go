package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/dir"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

func open(t testing.TB, repo string) origin.Origin {
	t.Helper()
	o, err := registry.Open(context.Background(), registry.Scheme+repo, registry.Options{Settle: time.Nanosecond, PackBytes: 1 << 20, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// testSalt seals what tests publish, and testSigner signs it.
var (
	testSalt, _   = seal.NewSalt(seal.DefaultDomain, 1)
	testSigner, _ = sign.NewKey()
)

func mustPublish(t testing.TB, o origin.Origin, src string) *publish.Result {
	t.Helper()
	return publishAs(t, o, "it", src)
}

// TestPublish puts an image into a registry and into a directory, and compares
// what is read from both.
func TestPublish(t *testing.T) {
	for name, start := range map[string]func(t testing.TB) string{
		"Distribution": func(t testing.TB) string { return registrytest.Distribution(t).Addr },
		"OCI":          registrytest.OCI,
	} {
		t.Run(name, func(t *testing.T) {
			repo := start(t) + "/library/python"
			src := pushRandom(t, repo+":3.12", 3)
			o := open(t, repo)
			result := mustPublish(t, o, src)
			plain, err := dir.Open(t.TempDir(), true)
			if err != nil {
				t.Fatal(err)
			}
			want := mustPublish(t, plain, src)
			if result.Digest != want.Digest {
				t.Errorf("disk %s in the registry, %s in a directory", result.Digest, want.Digest)
			}
			sameDisk(t, open(t, repo).Generation(1), plain.Generation(1))

			image, err := origin.ParseDigest(result.SourceDigest)
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			err = o.(*registry.Origin).BlockMaps(context.Background(), image, func(_ origin.GenerationID, d origin.Digest) error {
				found = append(found, d.String())
				return nil
			})
			if err != nil || len(found) != 1 || found[0] != result.BlockMap {
				t.Errorf("the image's block maps are %v, %v; want %s", found, err, result.BlockMap)
			}
		})
	}
}

// TestForward copies an image into a new generation and deletes the old one: no
// chunk moves, and the image is read as before.
func TestForward(t *testing.T) {
	ctx := context.Background()
	f := new(registrytest.Faults)
	host := registrytest.Memory(t, false, func(h http.Handler) http.Handler {
		f.Handler = h
		return f
	})
	src := pushRandom(t, host+"/image:1", 2)
	o := open(t, host+"/a")
	result := mustPublish(t, o, src)
	plain, err := dir.Open(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	mustPublish(t, plain, src)
	d, err := origin.ParseDigest(result.BlockMap)
	if err != nil {
		t.Fatal(err)
	}
	f.Reset()
	forward := generation.Forwarder{Origin: o}
	copied, err := forward.Forward(ctx, d, 1, 2)
	if err == nil {
		err = forward.ForwardName(ctx, "it", 1, 2)
	}
	if err != nil || copied == 0 {
		t.Fatalf("Forward = %d, %v", copied, err)
	}
	if n := f.Bytes.Load(); n > result.StoredBytes/10 {
		t.Errorf("forwarding %d bytes of chunks sent %d bytes", result.StoredBytes, n)
	}
	if err := o.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	sameDisk(t, open(t, host+"/a").Generation(2), plain.Generation(1))
	signatures := 0
	err = o.Generation(2).ListAttachments(ctx, d, "minisign", func([]byte) error { signatures++; return nil })
	if err != nil || signatures == 0 {
		t.Errorf("%d signatures, %v", signatures, err)
	}
}

// pushRandom pushes an image of several layers and returns its reference.
func pushRandom(t testing.TB, ref string, layers int64) string {
	t.Helper()
	img, err := random.Image(700_000, layers)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	return ref
}

// sameDisk reads the disk "it" from two stores, through a door.
func sameDisk(t *testing.T, a, b origin.Store) {
	t.Helper()
	ctx := context.Background()
	var maps [2]*blockmap.Map
	var doors [2]*chunk.Door
	for i, s := range []origin.Store{a, b} {
		m, err := catalog.Open(ctx, s, "it")
		if err != nil {
			t.Fatal(err)
		}
		maps[i], doors[i] = m, chunk.NewDoor(s)
	}
	if maps[0].Len() != maps[1].Len() || maps[0].Len() == 0 {
		t.Fatalf("%d and %d chunks", maps[0].Len(), maps[1].Len())
	}
	for i := range maps[0].Len() {
		x, y := maps[0].Chunk(i), maps[1].Chunk(i)
		if x.ID != y.ID || x.Index != y.Index {
			t.Fatalf("chunk %d is %v at %d, and %v at %d", i, x.ID, x.Index, y.ID, y.Index)
		}
		var got [2][]byte
		for k, door := range doors {
			got[k] = make([]byte, x.Stored)
			n, err := door.ReadChunk(ctx, x.ID, got[k], 0)
			if err != nil || n != int(x.Stored) {
				t.Fatalf("chunk %v: %d bytes, %v", x.ID, n, err)
			}
		}
		if !bytes.Equal(got[0], got[1]) {
			t.Fatalf("chunk %v differs", x.ID)
		}
	}
}

// TestPublishAgainIsFewRequests publishes an image that is there.
func TestPublishAgainIsFewRequests(t *testing.T) {
	f := new(registrytest.Faults)
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		f.Handler = h
		return f
	})
	src := "dir:" + makeFiles(t, 200)
	first := mustPublish(t, open(t, host+"/a"), src)
	f.Reset()
	again := mustPublish(t, open(t, host+"/a"), src)
	if again.NewChunks != 0 || again.BlockMap != first.BlockMap {
		t.Errorf("published again: %+v", again)
	}
	// Once for the image, lists twice, and tags that stand for lists as long as it is not known
	// that there are lists; nothing for a layer, a chunk.
	if n := int(f.Requests.Load()) - f.Count(http.MethodGet, "/manifests/sha256-"); n > 24 {
		t.Errorf("publishing again took %d requests: %v", n, f)
	}
	if n := f.Count(http.MethodPut, ""); n != 0 {
		t.Errorf("publishing again wrote %d things: %v", n, f)
	}
}

// makeFiles makes a folder of files.
func makeFiles(t testing.TB, n int) string {
	t.Helper()
	root := t.TempDir()
	for i := range n {
		f, err := os.Create(filepath.Join(root, fmt.Sprintf("file-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(f, fmt.Sprintln("file", i))
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}
