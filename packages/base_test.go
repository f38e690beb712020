package packages

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/rivuletfs/rivulet/flatten/source"
)

// TestBaseIsDownloadedOnce unpacks an image of a registry, and reads its layers as who publishes them
// does after that: the registry is asked for each once.
func TestBaseIsDownloadedOnce(t *testing.T) {
	var blobs atomic.Int64
	inner := registry.New()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	defer s.Close()
	at := strings.TrimPrefix(s.URL, "http://") + "/app"
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(at)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	opened, err := source.Open(ctx, []string{at}, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = opened.Close() }()
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	blobs.Store(0)
	b := &base{cache: c, layers: opened.Layers, name: chainOf(opened.Layers), temp: t.TempDir()}
	if _, err := b.root(ctx); err == nil {
		t.Fatal("an image of nothing has a Python")
	}
	for _, l := range opened.Layers {
		spool, err := os.CreateTemp(t.TempDir(), "spool")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Read(ctx, spool); err != nil {
			t.Error(err)
		}
		_ = spool.Close()
	}
	if n := blobs.Load(); n != 2 {
		t.Errorf("the registry was asked for %d layers, of 2", n)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(b.temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
