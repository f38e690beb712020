package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	none "github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// A farOrigin answers each request a second late, and takes as many for an
// operation, one after the other, as a bucket does. In a bubble of synctest, where
// time passes only while everybody waits, the seconds that something takes are the
// round trips of its longest chain.
type farOrigin struct {
	origin.Origin
	requests atomic.Int64
}

// An openFar is a farOrigin that was opened as store.Open opens one.
type openFar struct {
	*farOrigin
	ahead  *origin.Ahead
	stores map[origin.GenerationID]*aheadStore
}

// An aheadStore is a farStore of which something was asked ahead.
type aheadStore struct {
	origin.Store
	ahead *origin.Ahead
}

func (f *farOrigin) open(ctx context.Context, opts store.Options) (origin.Origin, error) {
	o := &openFar{f, origin.ReadAhead(ctx, f, opts.Ahead...), map[origin.GenerationID]*aheadStore{}}
	for id, names := range opts.AheadIn {
		s := f.Generation(id)
		o.stores[id] = &aheadStore{s, origin.ReadAhead(ctx, s, names...)}
	}
	f.ask(1) // is it an origin?
	return o, nil
}

func (o *openFar) GetPointer(ctx context.Context, name string) ([]byte, error) {
	return o.ahead.GetPointer(ctx, name)
}

func (o *openFar) Generation(id origin.GenerationID) origin.Store {
	if s := o.stores[id]; s != nil {
		return s
	}
	return o.farOrigin.Generation(id)
}

func (s *aheadStore) GetPointer(ctx context.Context, name string) ([]byte, error) {
	return s.ahead.GetPointer(ctx, name)
}

func (f *farOrigin) ask(rounds int) {
	f.requests.Add(int64(rounds))
	time.Sleep(time.Duration(rounds) * time.Second)
}

func (f *farOrigin) GetPointer(ctx context.Context, name string) ([]byte, error) {
	f.ask(1)
	return f.Origin.GetPointer(ctx, name)
}

func (f *farOrigin) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	f.ask(2)
	return f.Origin.SwapPointer(ctx, name, old, new)
}

func (f *farOrigin) ListPointers(ctx context.Context, prefix string, fn func(string) error) error {
	f.ask(1)
	return f.Origin.ListPointers(ctx, prefix, fn)
}

func (f *farOrigin) Generation(id origin.GenerationID) origin.Store {
	return &farStore{f.Origin.Generation(id), f}
}

type farStore struct {
	origin.Store
	far *farOrigin
}

func (s *farStore) GetPointer(ctx context.Context, name string) ([]byte, error) {
	s.far.ask(1)
	return s.Store.GetPointer(ctx, name)
}

func (s *farStore) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	s.far.ask(2)
	return s.Store.SwapPointer(ctx, name, old, new)
}

func (s *farStore) ListPointers(ctx context.Context, prefix string, fn func(string) error) error {
	s.far.ask(1)
	return s.Store.ListPointers(ctx, prefix, fn)
}

func (s *farStore) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	s.far.ask(1)
	return s.Store.GetObject(ctx, d, max)
}

func (s *farStore) PutObject(ctx context.Context, data []byte) (origin.Digest, error) {
	s.far.ask(1)
	return s.Store.PutObject(ctx, data)
}

func (s *farStore) Attach(ctx context.Context, d origin.Digest, kind string, data []byte) error {
	s.far.ask(3)
	return s.Store.Attach(ctx, d, kind, data)
}

// ListAttachments lists, and then reads all at once.
func (s *farStore) ListAttachments(ctx context.Context, d origin.Digest, kind string, fn func([]byte) error) error {
	s.far.ask(1)
	var list [][]byte
	err := s.Store.ListAttachments(ctx, d, kind, func(b []byte) error {
		list = append(list, b)
		return nil
	})
	if len(list) > 0 {
		s.far.requests.Add(int64(len(list)))
		time.Sleep(time.Second)
	}
	for i := 0; i < len(list) && err == nil; i++ {
		err = fn(list[i])
	}
	return err
}

func (s *farStore) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	s.far.ask(1)
	return s.Store.Stat(ctx, id)
}

func (s *farStore) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	s.far.ask(1)
	return s.Store.Fetch(ctx, id, dst, off)
}

func (s *farStore) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	s.far.ask(1)
	return s.Store.Put(ctx, id, object)
}

// writeRandom writes an image of n layers and returns its name as a source.
func writeRandom(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	index, err := layout.Write(dir, none.Index)
	if err != nil {
		t.Fatal(err)
	}
	var layers []v1.Layer
	for range n {
		l, err := random.Layer(2<<20, "application/vnd.oci.image.layer.v1.tar+gzip")
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	img, err := mutate.AppendLayers(none.Image, layers...)
	if err == nil {
		err = index.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return "oci:" + dir
}

// carried is more round trips than it takes to carry an image to a new generation.
const carried = 120

// TestRoundTrips: to publish an image that is there takes three round trips, four where
// it is not known which generation and salt to expect, and neither layers nor chunks nor
// recipients add any.
func TestRoundTrips(t *testing.T) {
	keys := t.TempDir()
	t.Setenv("RIVULET_KEYS", keys)
	ctx := context.Background()
	var recipients []string
	for i := range 3 {
		id, err := agewrap.CreateIdentity(filepath.Join(t.TempDir(), fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		recipients = append(recipients, id.Recipients()[0].String())
	}
	for _, layers := range []int{1, 5} {
		t.Run(fmt.Sprint(layers), func(t *testing.T) {
			src := writeRandom(t, layers)
			app := &app{out: io.Discard, err: os.Stderr, storeURL: "s3://bucket/" + fmt.Sprint(layers)}
			flags := publishFlags{domain: "default", recipients: recipients}
			once := func(ctx context.Context, open func(context.Context, store.Options) (origin.Origin, error)) *publish.Result {
				opts := publish.Options{Name: "x", TempDir: t.TempDir()}
				_, r, err := app.publish(ctx, []string{src}, &flags, &opts, open)
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			o := memory.New()
			first := once(ctx, func(context.Context, store.Options) (origin.Origin, error) { return o, nil })
			again := func(t *testing.T, most int) {
				synctest.Test(t, func(t *testing.T) {
					far := &farOrigin{Origin: o}
					begin := time.Now()
					again := once(ctx, far.open)
					rounds := int(time.Since(begin) / time.Second)
					requests := far.requests.Load()
					t.Logf("%d layers, %d chunks: %d round trips, %d requests", layers, again.Chunks, rounds, requests)
					if again.NewChunks != 0 || again.BlockMap != first.BlockMap || again.LayersKnown != layers {
						t.Fatalf("published %+v, before %+v", again, first)
					}
					if rounds > most {
						t.Errorf("%d round trips one after the other, want at most %d", rounds, most)
					}
					if most := int64(25 + (farSample+1)*layers); rounds <= 4 && requests > most {
						t.Errorf("%d requests, want at most %d", requests, most)
					}
				})
			}
			again(t, 3) // state and chain ID; block map; what the map speaks of
			if err := os.Remove(filepath.Join(keys, "generations")); err != nil {
				t.Fatal(err)
			}
			again(t, 4) // state; chain ID; as above
			if _, err := generation.New(ctx, o, 1, time.Now()); err != nil {
				t.Fatal(err)
			}
			again(t, carried) // a wrong guess; the image is carried
			if d, err := catalog.Get(ctx, o.Generation(2), catalog.NameKey("x")); err != nil || d.String() != first.BlockMap {
				t.Errorf("the name leads to %v in the new generation, %v", d, err)
			}
			again(t, 3)
		})
	}
}

// A farRegistry is a transport that asks a registry in this process, and has its answer
// a while later.
type farRegistry struct {
	handler  http.Handler
	late     time.Duration
	requests atomic.Int64
	log      func(...any) // told of each request; nil: nobody is
	begun    time.Time    // what log is told the time since
}

func (f *farRegistry) RoundTrip(req *http.Request) (*http.Response, error) {
	f.requests.Add(1)
	if f.log != nil {
		f.log(time.Since(f.begun), req.Method, req.URL.Path)
	}
	select {
	case <-time.After(f.late):
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	in := req.Clone(req.Context())
	in.RequestURI = req.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, in)
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

// TestRoundTripsRegistry is TestRoundTrips for registries, with the referrers API and
// without, of which the requests themselves are counted.
func TestRoundTripsRegistry(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	for _, c := range []struct {
		name      string
		referrers bool
		layers    int
		open      bool
	}{
		{"referrers", true, 1, false},
		{"referrers, 5 layers", true, 5, false},
		{"no referrers", false, 1, false},
		{"readable by all", true, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var handler http.Handler
			registrytest.Memory(t, c.referrers, func(h http.Handler) http.Handler {
				handler = h
				return h
			})
			src := writeRandom(t, c.layers)
			app := &app{out: io.Discard, err: os.Stderr, storeURL: "oci://registry.example/" + fmt.Sprintf("team/app-%d-%v-%v", c.layers, c.referrers, c.open)}
			once := func(far *farRegistry) *publish.Result {
				opts := publish.Options{Name: "x", TempDir: t.TempDir(), Open: c.open}
				_, r, err := app.publish(context.Background(), []string{src}, &publishFlags{domain: "default"}, &opts, func(ctx context.Context, o store.Options) (origin.Origin, error) {
					return registry.Open(ctx, app.storeURL, registry.Options{Transport: far, Settle: time.Millisecond, Ahead: o.Ahead, AheadIn: o.AheadIn})
				})
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			first := once(&farRegistry{handler: handler})
			synctest.Test(t, func(t *testing.T) {
				far := &farRegistry{handler: handler, late: time.Second}
				begin := time.Now()
				again := once(far)
				rounds := int(time.Since(begin) / time.Second)
				t.Logf("%d chunks: %d round trips, %d requests", again.Chunks, rounds, far.requests.Load())
				if again.NewChunks != 0 || again.BlockMap != first.BlockMap || again.LayersKnown != c.layers {
					t.Fatalf("published %+v, before %+v", again, first)
				}
				if rounds > 3 {
					t.Errorf("%d round trips one after the other, want at most 3", rounds)
				}
			})
		})
	}
}
