package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	ociLayout "github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
)

// testSalt seals what tests publish, and testSigner signs it.
var (
	testSalt, _   = seal.NewSalt(seal.DefaultDomain, 1)
	testSigner, _ = sign.NewKey()
)

// options publish an image that everybody can read.
func options(t testing.TB, name string) Options {
	return Options{Salt: testSalt, Signer: testSigner, Open: true, Name: name, TempDir: t.TempDir()}
}

// makeTree writes n files, some of them large and some compressible, and
// returns the folder.
func makeTree(t testing.TB, seed uint64, n int) string {
	t.Helper()
	root := t.TempDir()
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range n {
		body := make([]byte, rng.IntN(20<<10))
		if i%25 == 3 {
			body = make([]byte, 300<<10+rng.IntN(1<<20))
		}
		for k := range body {
			body[k] = byte(rng.IntN(1 + i%7*40))
		}
		name := filepath.Join(root, fmt.Sprintf("dir%d", i/10), fmt.Sprintf("file%d", i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func mustPublish(t testing.TB, place origin.Origin, name string, srcs ...string) *Result {
	t.Helper()
	return publishAs(t, place, options(t, name), srcs...)
}

func publishAs(t testing.TB, place origin.Origin, o Options, srcs ...string) *Result {
	t.Helper()
	r, err := Image(context.Background(), place, srcs, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// openFiles opens the published image's file system through package disk.
func openFiles(t testing.TB, place origin.Origin, name string) *ext4.FS {
	t.Helper()
	store := place.Generation(1)
	m, err := catalog.Open(context.Background(), store, name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := disk.Open(m, chunk.NewDoor(store), disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	fsys, err := ext4.Open(d, d.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// sameTree compares the files of want with those of got.
func sameTree(t *testing.T, got fs.FS, want string) {
	t.Helper()
	files := 0
	err := fs.WalkDir(os.DirFS(want), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		a, err := fs.ReadFile(got, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(want, path))
		if err == nil && !bytes.Equal(a, b) {
			t.Errorf("%s: content differs", path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("compared %d files: %v", files, err)
	}
}

func TestPublishedFilesReadBack(t *testing.T) {
	tree := makeTree(t, 1, 200)
	store := memory.New()
	r := mustPublish(t, store, "a", "dir:"+tree)
	sameTree(t, openFiles(t, store, "a"), tree)
	if r.Chunks == 0 || r.NewChunks == 0 || r.NewBytes != r.StoredBytes || r.FetchedBytes == 0 || r.LayersKnown != 0 {
		t.Errorf("result %+v does not add up", r)
	}
	for _, ref := range []string{r.BlockMap, r.Digest, r.SourceDigest, r.Digest[len("sha256:"):]} {
		if _, err := catalog.Open(context.Background(), store.Generation(1), ref); err != nil {
			t.Errorf("by digest %s: %v", ref, err)
		}
	}
}

func TestPublishAgainStoresNothing(t *testing.T) {
	tree := makeTree(t, 2, 100)
	store := memory.New()
	first := mustPublish(t, store, "a", "dir:"+tree)
	again := mustPublish(t, store, "b", "dir:"+tree)
	if again.NewChunks != 0 || again.FetchedBytes != 0 || again.LayersKnown != 1 {
		t.Errorf("again: %+v", again)
	}
	if again.Digest != first.Digest || again.BlockMap != first.BlockMap {
		t.Errorf("digest %s, block map %s; first %s, %s", again.Digest, again.BlockMap, first.Digest, first.BlockMap)
	}
}

// TestPrevious: the result says where the name led before, in whatever generation.
func TestPrevious(t *testing.T) {
	store := memory.New()
	a, b := "dir:"+makeTree(t, 1, 3), "dir:"+makeTree(t, 2, 3)
	first := mustPublish(t, store, "x", a)
	again := mustPublish(t, store, "x", a)
	second := mustPublish(t, store, "x", b)
	if first.Previous != "" || again.Previous != "" || second.Previous != first.BlockMap {
		t.Errorf("previous: %q, %q, %q; want none, none, %q", first.Previous, again.Previous, second.Previous, first.BlockMap)
	}
	if _, err := generation.New(context.Background(), store, 1, time.Now()); err != nil {
		t.Fatal(err)
	}
	if third := mustPublish(t, store, "x", a); third.Previous != second.BlockMap {
		t.Errorf("of an older generation: %q, want %q", third.Previous, second.BlockMap)
	}
}

func TestLayerOnKnownBaseIsReadAlone(t *testing.T) {
	base, app := makeTree(t, 3, 150), makeTree(t, 4, 5)
	store := memory.New()
	mustPublish(t, store, "base", "dir:"+base)
	r := mustPublish(t, store, "app", "dir:"+base, "dir:"+app)
	if r.LayersKnown != 1 || r.Layers != 2 {
		t.Errorf("%d of %d layers were known, want 1 of 2", r.LayersKnown, r.Layers)
	}
	alone := mustPublish(t, memory.New(), "app", "dir:"+base, "dir:"+app)
	if alone.Digest != r.Digest {
		t.Errorf("disk %s on a known base, %s without", r.Digest, alone.Digest)
	}
	sameTree(t, openFiles(t, store, "app"), app)
}

func TestDigestDependsOnNothingElse(t *testing.T) {
	tree := makeTree(t, 5, 120)
	want := mustPublish(t, memory.New(), "a", "dir:"+tree)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	o := options(t, "b")
	o.Workers, o.Puts = 1, 1
	r := publishAs(t, memory.New(), o, "dir:"+tree)
	if r.Digest != want.Digest || r.BlockMap != want.BlockMap {
		t.Errorf("one worker: %s, %s; several: %s, %s", r.Digest, r.BlockMap, want.Digest, want.BlockMap)
	}
}

// A wrapped origin has another store in place of generation 1.
type wrapped struct {
	origin.Origin
	first origin.Store
}

func (w wrapped) Generation(id origin.GenerationID) origin.Store {
	if id == 1 {
		return w.first
	}
	return w.Origin.Generation(id)
}

// A failing sink stops accepting chunks after some.
type failing struct {
	origin.Store
	left atomic.Int64
}

var errFull = errors.New("no space left")

func (f *failing) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	if f.left.Add(-1) < 0 {
		return false, errFull
	}
	return f.Store.Put(ctx, id, object)
}

func TestFailureLeavesNoNameAndIsResumed(t *testing.T) {
	tree := makeTree(t, 6, 200)
	store := memory.New()
	for left := range int64(8) {
		f := &failing{Store: store.Generation(1)}
		f.left.Store(left)
		_, err := Image(context.Background(), wrapped{store, f}, []string{"dir:" + tree}, options(t, "a"))
		if !errors.Is(err, errFull) {
			t.Fatalf("after %d chunks: %v", left, err)
		}
		if _, err := catalog.Open(context.Background(), store.Generation(1), "a"); !errors.Is(err, chunk.ErrNotFound) {
			t.Fatalf("after %d chunks the name exists: %v", left, err)
		}
	}
	mustPublish(t, store, "a", "dir:"+tree)
	sameTree(t, openFiles(t, store, "a"), tree)
}

// A store that lost a chunk says so to Stat.
type lossy struct {
	origin.Store
	lost chunk.ID
}

func (l *lossy) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	if id == l.lost {
		return 0, chunk.ErrNotFound
	}
	return l.Store.Stat(ctx, id)
}

func TestLostChunkIsStoredAgain(t *testing.T) {
	tree := makeTree(t, 7, 60)
	store := memory.New()
	mustPublish(t, store, "a", "dir:"+tree)
	m, err := catalog.Open(context.Background(), store.Generation(1), "a")
	if err != nil {
		t.Fatal(err)
	}
	r := mustPublish(t, wrapped{store, &lossy{Store: store.Generation(1), lost: m.Chunk(1).ID}}, "a", "dir:"+tree)
	if r.LayersKnown != 0 || r.FetchedBytes == 0 {
		t.Errorf("a layer with a lost chunk counted as known: %+v", r)
	}
}

// Short cuts that lead nowhere, or to another image, are not taken, and are
// mended.
func TestShortCutsThatLeadAstray(t *testing.T) {
	ctx := context.Background()
	tree, other := makeTree(t, 10, 30), makeTree(t, 11, 30)
	want := mustPublish(t, memory.New(), "a", "dir:"+tree)
	for name, value := range map[string]func(wrong *Result) string{
		"no digest":     func(*Result) string { return "garbage" },
		"another image": func(wrong *Result) string { return wrong.BlockMap + "\n" },
		"no object":     func(*Result) string { return "sha256:" + strings.Repeat("5", 64) + "\n" },
	} {
		t.Run(name, func(t *testing.T) {
			store := memory.New()
			wrong := mustPublish(t, store, "other", "dir:"+other)
			mustPublish(t, store, "a", "dir:"+tree)
			id, err := origin.ParseDigest(want.ChainID)
			if err != nil {
				t.Fatal(err)
			}
			signer := testSigner.Public().ID()
			for _, key := range []string{catalog.ChainKey(id, layout.Version, testSalt.ID(), 0, signer), catalog.SegmentKey(id, layout.Version, testSalt.ID(), signer)} {
				old, err := store.Generation(1).GetPointer(ctx, key)
				if err != nil {
					t.Fatal(err)
				}
				if err := store.Generation(1).SwapPointer(ctx, key, old, []byte(value(wrong))); err != nil {
					t.Fatal(err)
				}
			}
			r := mustPublish(t, store, "a", "dir:"+tree)
			if r.BlockMap != want.BlockMap || r.LayersKnown != 0 {
				t.Errorf("published %+v, want block map %s", r, want.BlockMap)
			}
			if again := mustPublish(t, store, "a", "dir:"+tree); again.LayersKnown != 1 {
				t.Errorf("the short cuts were not mended: %+v", again)
			}
		})
	}
}

// An image may have no layers at all.
func TestNoLayers(t *testing.T) {
	path := t.TempDir()
	index, err := ociLayout.Write(path, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := index.AppendImage(empty.Image); err != nil {
		t.Fatal(err)
	}
	store := memory.New()
	r := mustPublish(t, store, "a", "oci:"+path)
	if r.Layers != 0 || r.Chunks == 0 || r.ChainID != (origin.Digest{}).String() {
		t.Errorf("published %+v", r)
	}
	if names, err := fs.ReadDir(openFiles(t, store, "a"), "."); err != nil || len(names) != 0 {
		t.Errorf("holds %v, %v", names, err)
	}
}

// Publishers that work at once on one store make one image of it.
func TestPublishersAtOnce(t *testing.T) {
	tree := makeTree(t, 12, 100)
	store := memory.New()
	var wg sync.WaitGroup
	results := make([]*Result, 4)
	for i := range results {
		wg.Go(func() {
			r, err := Image(context.Background(), store, []string{"dir:" + tree}, options(t, "a"))
			if err != nil {
				t.Error(err)
				r = &Result{}
			}
			results[i] = r
		})
	}
	wg.Wait()
	added := int64(0)
	for _, r := range results {
		added += r.NewChunks
		if r.BlockMap != results[0].BlockMap {
			t.Errorf("block maps %s and %s", r.BlockMap, results[0].BlockMap)
		}
	}
	if want := mustPublish(t, memory.New(), "a", "dir:"+tree).NewChunks; added != want {
		t.Errorf("%d chunks counted as new, want %d", added, want)
	}
	sameTree(t, openFiles(t, store, "a"), tree)
}

func TestCancel(t *testing.T) {
	tree := makeTree(t, 8, 100)
	ctx, cancel := context.WithCancel(context.Background())
	o := options(t, "a")
	o.Progress = func(e Event) {
		if e.Stage == Storing {
			cancel()
		}
	}
	_, err := Image(ctx, memory.New(), []string{"dir:" + tree}, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNameOfSource(t *testing.T) {
	for _, c := range []struct{ src, reference, want string }{
		{"oci:layout:python3", "", "python3"},
		{"oci:some/layout", "", "layout"},
		{"dir:/usr/share/doc/", "", "doc"},
		{"tar:x/root.tar.gz", "", "root"},
		{"docker-archive:img.tar", "", "img"},
		{"nginx", "index.docker.io/library/nginx:latest", "index.docker.io/library/nginx:latest"},
	} {
		if got := sourceName(c.src, c.reference); got != c.want {
			t.Errorf("%s: %q, want %q", c.src, got, c.want)
		}
	}
}

func TestRefusesBadOptions(t *testing.T) {
	for what, spoil := range map[string]func(*Options){
		"name":      func(o *Options) { o.Name = "a//b" },
		"digest":    func(o *Options) { o.Name = "sha256:abc" },
		"size":      func(o *Options) { o.Size = 12345 },
		"small":     func(o *Options) { o.Size = 1 << 20 },
		"no salt":   func(o *Options) { o.Salt = nil },
		"no signer": func(o *Options) { o.Signer = nil },
		"nobody":    func(o *Options) { o.Open = false },
	} {
		o := options(t, "a")
		spoil(&o)
		if _, err := Image(context.Background(), memory.New(), []string{"dir:" + makeTree(t, 9, 5)}, o); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
