package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	none "github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/memory"
)

// A fetched origin counts the chunks that it is asked for.
type fetched struct {
	origin.Origin
	n    atomic.Int64
	late time.Duration // what storing takes
}

func (f *fetched) Generation(id origin.GenerationID) origin.Store {
	return fetchedStore{f.Origin.Generation(id), f}
}

type fetchedStore struct {
	origin.Store
	of *fetched
}

func (s fetchedStore) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	s.of.n.Add(1)
	return s.Store.Fetch(ctx, id, dst, off)
}

func (s fetchedStore) Flush(ctx context.Context) error {
	time.Sleep(s.of.late)
	return s.Store.Flush(ctx)
}

// tarLayer returns a layer of executable files, by name and text in turns.
func tarLayer(t *testing.T, files ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for ; len(files) > 1; files = files[2:] {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[0], Mode: 0o755, Size: int64(len(files[1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// writeStarted writes an image with these layers that starts /start.sh with an argument.
func writeStarted(t *testing.T, arg string, layers ...v1.Layer) string {
	t.Helper()
	img, err := mutate.AppendLayers(none.Image, layers...)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Cmd: []string{"/start.sh", arg}})
	}
	dir := t.TempDir()
	index, ierr := layout.Write(dir, none.Index)
	if err == nil {
		err = ierr
	}
	if err == nil {
		err = index.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return "oci:" + dir
}

// TestPredictedBesidePublishing: of a far origin no chunk is asked for that was just put, and
// what is predicted is what is predicted of the published image.
func TestPredictedBesidePublishing(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	ctx := context.Background()
	base := tarLayer(t, "sh", "no program", "lib/more", strings.Repeat("/etc/none\n", 9000))
	top := tarLayer(t, "etc/app.conf", "include /lib/more", "start.sh", "#!/sh\n/etc/app.conf\n")
	far := &fetched{Origin: memory.New()}
	a := &app{out: io.Discard, err: os.Stderr, storeURL: "s3://bucket/far"}
	once := func(src string) (*publish.Result, *expectation) {
		e := &expectation{app: a}
		opts := publish.Options{Name: "x", TempDir: t.TempDir(), Preview: e.look, Keep: true}
		_, r, err := a.publish(ctx, []string{src}, &publishFlags{domain: "default"}, &opts, func(context.Context, store.Options) (origin.Origin, error) { return far, nil })
		if err != nil || e.err != nil {
			t.Fatal(err, e.err)
		}
		return r, e
	}
	r, e := once(writeStarted(t, "a", base, top))
	if n := far.n.Load(); n != 0 {
		t.Errorf("%d chunks were read back", n)
	}
	said := a.predictAfter(ctx, far, r, nil, e)
	f, err := a.foresee(ctx, a.view(far), r.BlockMap)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if said == nil || said.Frames != len(f.p.Entries) || said.Image != r.BlockMap || !slices.Equal(f.p.Entries, e.p.Entries) {
		t.Errorf("predicted beside publishing %+v, %+v; of what was published %+v", said, e.p, f.p)
	}

	// The same files with another configuration are a new image, of which nothing is made.
	if r, e = once(writeStarted(t, "b", base, top)); e.p != nil {
		t.Errorf("what is there was looked at: %+v", e.p)
	}
	if again := a.predictAfter(ctx, far, r, nil, e); again == nil || again.Image == said.Image || again.Frames != said.Frames {
		t.Errorf("with another configuration %+v, before %+v", again, said)
	}

	// What was there before is not at hand.
	far.n.Store(0)
	if r, e = once(writeStarted(t, "a", base, tarLayer(t, "start.sh", "#!/sh\n/lib/more\n"))); r.LayersKnown != 1 || far.n.Load() == 0 || e.p == nil {
		t.Errorf("on a known base: %+v, %d chunks were read, predicted %+v", r, far.n.Load(), e.p)
	}
	if got := a.predictAfter(ctx, far, r, []inherited{{}}, e); got != nil {
		t.Errorf("in place of what was inherited: %+v", got)
	}
}

// TestPredictedThoughStoringTakesLong: how long the disk takes to be stored is no part of a prediction's time.
func TestPredictedThoughStoringTakesLong(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	src := writeStarted(t, "a", tarLayer(t, "sh", "no program", "start.sh", "#!/sh\n"))
	synctest.Test(t, func(t *testing.T) {
		a := &app{out: io.Discard, err: os.Stderr, storeURL: "s3://bucket/far"}
		far := &fetched{Origin: memory.New(), late: 2 * predictTime}
		e := &expectation{app: a}
		opts := publish.Options{Name: "x", TempDir: t.TempDir(), Preview: e.look, Keep: true}
		_, r, err := a.publish(context.Background(), []string{src}, &publishFlags{domain: "default"}, &opts, func(context.Context, store.Options) (origin.Origin, error) { return far, nil })
		if err != nil {
			t.Fatal(err)
		}
		if e.err != nil || e.said == nil || e.said.Image != r.BlockMap {
			t.Errorf("predicted %+v, %v", e.said, e.err)
		}
	})
}

// TestPredictedOfAnAttempt: what was predicted of an attempt to publish that came to nothing is not told of
// another one's image.
func TestPredictedOfAnAttempt(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	ctx := context.Background()
	a := &app{out: io.Discard, err: os.Stderr, storeURL: "s3://bucket/far"}
	place := memory.New()
	opts := publish.Options{Name: "x", TempDir: t.TempDir()}
	src := writeStarted(t, "a", tarLayer(t, "sh", "no program", "start.sh", "#!/sh\n"))
	_, r, err := a.publish(ctx, []string{src}, &publishFlags{domain: "default"}, &opts, func(context.Context, store.Options) (origin.Origin, error) { return place, nil })
	if err != nil {
		t.Fatal(err)
	}
	before := &expectation{app: a, said: &predicted{Image: "of another attempt"}}
	if p := a.predictAfter(ctx, place, r, nil, before); p == nil || p.Image != r.BlockMap {
		t.Errorf("predicted %+v, published is %s", p, r.BlockMap)
	}
}
