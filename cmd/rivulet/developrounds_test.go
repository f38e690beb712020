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

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

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
		var opened *registry.Origin
		opts := publish.Options{Name: "x", TempDir: t.TempDir()}
		_, r, err := app.publish(context.Background(), []string{base, "dir:" + source}, &publishFlags{domain: "default"}, &opts, func(ctx context.Context, o store.Options) (origin.Origin, error) {
			var err error
			opened, err = registry.Open(ctx, app.storeURL, registry.Options{Transport: far, Settle: time.Millisecond, Ahead: o.Ahead, AheadIn: o.AheadIn})
			return opened, err
		})
		if err != nil {
			t.Fatal(err)
		}
		image, err := origin.ParseDigest(r.BlockMap)
		if err != nil {
			t.Fatal(err)
		}
		rec := profile.Recording{Image: image, Touches: []profile.Touch{{}}}
		if _, err := generation.AddProfile(context.Background(), opened, rec.Profile()); far.late == 0 && err != nil {
			t.Fatal(err)
		}
		return r
	}
	once(&farRegistry{handler: handler}, "one")
	synctest.Test(t, func(t *testing.T) {
		far := &farRegistry{handler: handler, late: time.Second, log: t.Log, begun: time.Now()}
		once(far, "two")
		t.Logf("%d round trips, %d requests", int(time.Since(far.begun)/time.Second), far.requests.Load())
	})
}
