package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// developRounds is how many times one after the other a registry is asked when an image is published of which
// one layer has changed: to look for what is there, 5; for the layer's chunks, 3; its record, 6; metadata, 3 and
// 3; the block map, 6; keys and signature, 5; what leads to it, 6; and whether it lies where it should, 2.
const developRounds = 39

// TestDevelopRounds publishes an image again when some of its own files have changed, to a far registry.
func TestDevelopRounds(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	var handler http.Handler
	registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		handler = h
		return h
	})
	app := &app{out: io.Discard, err: os.Stderr, storeURL: "oci://registry.example/team/develop"}
	base, source := writeRandom(t, 2), t.TempDir()
	once := func(far *farRegistry, content string) *publish.Result {
		t.Helper()
		for i := range 40 {
			if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("file-%d.py", i)), []byte(content+fmt.Sprint(i)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		opts := publish.Options{Name: "x", TempDir: t.TempDir()}
		_, r, err := app.publish(context.Background(), []string{base, "dir:" + source}, &publishFlags{domain: "default"}, &opts, func(ctx context.Context, o store.Options) (origin.Origin, error) {
			return registry.Open(ctx, app.storeURL, registry.Options{Transport: far, Settle: time.Millisecond, Ahead: o.Ahead, AheadIn: o.AheadIn})
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	once(&farRegistry{handler: handler}, "one")
	synctest.Test(t, func(t *testing.T) {
		far := &farRegistry{handler: handler, late: time.Second, log: t.Log, begun: time.Now()}
		again := once(far, "two")
		rounds := int(time.Since(far.begun) / time.Second)
		t.Logf("%d round trips, %d requests", rounds, far.requests.Load())
		if again.LayersKnown != 2 || again.NewChunks == 0 {
			t.Errorf("published %+v", again)
		}
		if rounds > developRounds {
			t.Errorf("%d round trips one after the other, want at most %d", rounds, developRounds)
		}
	})
}
