package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

// TestMain has the tests work in memory, where there is some: they make thousands
// of transactions, each of which is synced.
func TestMain(m *testing.M) {
	inMemory, err := os.MkdirTemp("/dev/shm", "snapshotter-")
	if err == nil {
		err = os.Setenv("TMPDIR", inMemory)
	}
	if err != nil {
		inMemory = ""
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if inMemory != "" {
			_ = os.Remove(inMemory)
		}
		os.Exit(code)
	}))
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A tree is files by path; in a layer, ".wh." names take files away.
type tree map[string]string

// with returns what a tree is with a layer over it.
func (t tree) with(layer tree) tree {
	over := maps.Clone(t)
	for p := range layer {
		dir, base := path.Split(p)
		if gone, ok := strings.CutPrefix(base, ".wh."); ok {
			maps.DeleteFunc(over, func(q, _ string) bool { return q == dir+gone || strings.HasPrefix(q, dir+gone+"/") })
		}
	}
	for p, content := range layer {
		if !strings.HasPrefix(path.Base(p), ".wh.") {
			over[p] = content
		}
	}
	return over
}

// archive writes a layer as an archive without directories, which are left to
// those below.
func (t tree) archive() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range slices.Sorted(maps.Keys(t)) {
		_ = w.WriteHeader(&tar.Header{Name: p, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(t[p])), ModTime: time.Unix(1, 0)})
		_, _ = io.WriteString(w, t[p])
	}
	_ = w.Close()
	return b.Bytes()
}

func (t tree) write(tb testing.TB, dir string) {
	tb.Helper()
	for p, content := range t {
		check(tb, os.MkdirAll(filepath.Join(dir, path.Dir(p)), 0o755), os.WriteFile(filepath.Join(dir, p), []byte(content), 0o644))
	}
}

func readTree(tb testing.TB, dir string) tree {
	tb.Helper()
	got := tree{}
	check(tb, filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		got[rel] = string(b)
		return err
	}))
	return got
}

// An image is one that lies in the site's registry.
type image struct {
	reference string
	manifest  digest.Digest
	layers    []tree
	archives  [][]byte
	blobs     []digest.Digest
	diffIDs   []digest.Digest
}

func (i *image) chain(layers int) digest.Digest { return chainOf(i.diffIDs[:layers]) }

func (i *image) top() digest.Digest { return i.chain(len(i.layers)) }

func (i *image) tree() tree {
	t := tree{}
	for _, l := range i.layers {
		t = t.with(l)
	}
	return t
}

// A site is a host with containerd's metadata and the snapshotter, and a registry.
type site struct {
	t     testing.TB
	root  string
	cfg   Config
	disks *fakeDisks
	sn    *Snapshotter
	db    *metadata.DB
	stop  func()
	keys  atomic.Int64

	registry *httptest.Server
	mu       sync.Mutex          // guards what follows
	fetched  []digest.Digest     // blobs
	tamper   func([]byte) []byte // what the registry does to layers
	away     bool                // the registry does not answer
}

func newSite(t testing.TB) *site {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	s := &site{t: t, root: t.TempDir()}
	s.disks = &fakeDisks{t: t, dir: t.TempDir(), mounted: map[string]Disk{}, devices: map[string]Writes{}}
	t.Cleanup(s.disks.end)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(inner, w, r) }))
	t.Cleanup(s.registry.Close)
	s.cfg = Config{
		Root: filepath.Join(s.root, "snapshotter"), Finder: s.disks, Mounter: s.disks,
		Patience: 30 * time.Second, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		remote.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	s.start()
	return s
}

func (s *site) serve(inner http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	away, tamper := s.away, s.tamper
	_, blob, isBlob := strings.Cut(r.URL.Path, "/blobs/sha256:")
	if isBlob && r.Method == http.MethodGet {
		s.fetched = append(s.fetched, digest.Digest("sha256:"+blob))
	}
	s.mu.Unlock()
	switch {
	case away:
		http.Error(w, "away", http.StatusForbidden) // which is not tried again
	case tamper != nil && isBlob && r.Method == http.MethodGet:
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		_, _ = w.Write(tamper(rec.Body.Bytes()))
	default:
		inner.ServeHTTP(w, r)
	}
}

// start opens the snapshotter, again after stop.
func (s *site) start() {
	s.t.Helper()
	var err error
	s.sn, err = New(s.cfg)
	check(s.t, err)
	b, err := bolt.Open(filepath.Join(s.root, "meta.db"), 0o600, &bolt.Options{Timeout: time.Second})
	check(s.t, err)
	s.db = metadata.NewDB(b, nil, map[string]snapshots.Snapshotter{"rivulet": s.sn})
	check(s.t, s.db.Init(s.t.Context()))
	sn := s.sn
	s.stop = sync.OnceFunc(func() { _ = b.Close(); _ = sn.Close() })
	s.t.Cleanup(s.stop)
}

// restart closes everything and opens it again.
func (s *site) restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

// push makes an image of layers and puts it into the registry.
func (s *site) push(repository string, layers ...tree) *image {
	s.t.Helper()
	i := &image{reference: strings.TrimPrefix(s.registry.URL, "http://") + "/" + repository + ":1", layers: layers}
	img := empty.Image
	for _, l := range layers {
		b := l.archive()
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		check(s.t, err)
		img, err = mutate.AppendLayers(img, layer)
		check(s.t, err)
		diffID, err := layer.DiffID()
		check(s.t, err)
		blob, err := layer.Digest()
		check(s.t, err)
		i.archives = append(i.archives, b)
		i.diffIDs = append(i.diffIDs, digest.Digest(diffID.String()))
		i.blobs = append(i.blobs, digest.Digest(blob.String()))
	}
	img, err := mutate.Config(img, v1.Config{Cmd: []string{repository}})
	check(s.t, err)
	ref, err := name.ParseReference(i.reference)
	check(s.t, err)
	check(s.t, remote.Write(ref, img))
	d, err := img.Digest()
	check(s.t, err)
	i.manifest = digest.Digest(d.String())
	return i
}

// downloaded returns how many of the image's layers the registry was asked for,
// each as often as that was.
func (s *site) downloaded(i *image) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.fetched {
		if slices.Contains(i.blobs, d) {
			n++
		}
	}
	return n
}

func (s *site) set(away bool, tamper func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.tamper = away, tamper
}

func (s *site) in(namespace string) (context.Context, snapshots.Snapshotter) {
	return namespaces.WithNamespace(s.t.Context(), namespace), s.db.Snapshotter("rivulet")
}

func (s *site) key(what string) string { return fmt.Sprintf("%s-%d", what, s.keys.Add(1)) }

// pull does what containerd's unpacker does, and returns the layers that it had to
// unpack.
func (s *site) pull(namespace string, i *image, change ...func(labels map[string]string)) (unpacked []int, err error) {
	ctx, sn := s.in(namespace)
	parent := ""
	for n := range i.layers {
		chain := string(i.chain(n + 1))
		labels := map[string]string{
			snapshots.LabelSnapshotRef:                chain,
			labelReference:                            i.reference,
			labelManifest:                             string(i.manifest),
			"containerd.io/snapshot/cri.layer-digest": string(i.blobs[n]),
		}
		for _, fn := range change {
			fn(labels)
		}
		chain = labels[snapshots.LabelSnapshotRef] // what the pull calls it
		key := s.key("extract") + " " + chain
		mounts, err := sn.Prepare(ctx, key, parent, snapshots.WithLabels(labels))
		switch {
		case errdefs.IsAlreadyExists(err):
			if _, err := sn.Stat(ctx, chain); err != nil {
				return unpacked, err
			}
		case err != nil:
			return unpacked, err
		default:
			unpacked = append(unpacked, n)
			err := mount.WithTempMount(ctx, mounts, func(root string) error {
				_, err := archive.Apply(ctx, root, bytes.NewReader(i.archives[n]))
				return err
			})
			if err != nil {
				return unpacked, err
			}
			if err := sn.Commit(ctx, chain, key, snapshots.WithLabels(labels)); err != nil {
				return unpacked, err
			}
		}
		parent = chain
	}
	return unpacked, nil
}

func (s *site) mustPull(i *image, want ...int) {
	s.t.Helper()
	got, err := s.pull("test", i)
	check(s.t, err)
	if !slices.Equal(got, want) {
		s.t.Fatalf("pulling %s unpacked the layers %v, want %v", i.reference, got, want)
	}
}

// run starts a container of the chain and compares what it sees, writes a file, and
// returns the container's key.
func (s *site) run(chain digest.Digest, want tree) string {
	s.t.Helper()
	ctx, sn := s.in("test")
	key := s.key("container")
	mounts, err := sn.Prepare(ctx, key, string(chain), snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "now"}))
	check(s.t, err)
	s.look(mounts, want)
	check(s.t, mount.WithTempMount(ctx, mounts, func(root string) error {
		return os.WriteFile(filepath.Join(root, "written"), []byte("x"), 0o644)
	}))
	return key
}

func (s *site) look(mounts []mount.Mount, want tree) {
	s.t.Helper()
	err := mount.WithTempMount(s.t.Context(), mounts, func(root string) error {
		if got := readTree(s.t, root); !maps.Equal(got, want) {
			return fmt.Errorf("%v shows %v, want %v", mounts, got, want)
		}
		return nil
	})
	check(s.t, err)
}

func (s *site) mountsOf(key string) []mount.Mount {
	s.t.Helper()
	ctx, sn := s.in("test")
	mounts, err := sn.Mounts(ctx, key)
	check(s.t, err)
	return mounts
}

// collect removes keys, and has containerd's collector take what nothing refers to.
func (s *site) collect(keys ...string) {
	s.t.Helper()
	ctx, sn := s.in("test")
	for _, k := range keys {
		check(s.t, sn.Remove(ctx, k))
	}
	_, err := s.db.GarbageCollect(s.t.Context())
	check(s.t, err)
}
