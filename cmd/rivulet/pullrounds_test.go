package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// A reader is a frontend that reads what a mount reads first.
type reader struct{}

func (reader) Begin() error                                       { return nil }
func (reader) Release(context.Context) ([]keep.Descriptor, error) { return nil, nil }
func (reader) Offer(_ context.Context, o host.Offer) (host.Offered, error) {
	_, err := o.Device.ReadAt(make([]byte, 8<<10), 0) // superblock and descriptors
	return offered{}, err
}

type offered struct{}

func (offered) Address() string                    { return "" }
func (offered) Done() <-chan struct{}              { return nil }
func (offered) Err() error                         { return nil }
func (offered) Detach(context.Context, bool) error { return nil }

// TestPullRoundsRegistry counts the round trips to a registry between the question for the disk of
// an image, as a snapshotter has it when a layer is prepared, and the mounted disk: at most
// six, of a locked image with a metadata object and a profile that nobody has marked today, by a process that has never
// asked that registry.
func TestPullRoundsRegistry(t *testing.T) {
	t.Setenv("RIVULET_KEYS", t.TempDir())
	for _, referrers := range []bool{true, false} {
		t.Run(fmt.Sprintf("referrers=%v", referrers), func(t *testing.T) {
			var handler http.Handler
			registrytest.Memory(t, referrers, func(h http.Handler) http.Handler {
				handler = h
				return h
			})
			app := &app{out: io.Discard, err: os.Stderr, storeURL: fmt.Sprintf("oci://registry.example/team/pull-%v", referrers)}
			open := func(ctx context.Context, far http.RoundTripper, ahead []string) (*registry.Origin, error) {
				return registry.Open(ctx, app.storeURL, registry.Options{Transport: far, Settle: time.Millisecond, Ahead: ahead})
			}
			ctx := context.Background()
			_, published, err := app.publish(ctx, []string{writeRandom(t, 2)}, &publishFlags{domain: "default"}, &publish.Options{Name: "x", TempDir: t.TempDir()},
				func(ctx context.Context, o store.Options) (origin.Origin, error) {
					return open(ctx, &farRegistry{handler: handler}, o.Ahead)
				})
			if err != nil {
				t.Fatal(err)
			}
			image, err := origin.ParseDigest(published.BlockMap)
			if err != nil {
				t.Fatal(err)
			}
			o, err := open(ctx, &farRegistry{handler: handler}, nil)
			if err == nil {
				rec := profile.Recording{Image: image, Touches: []profile.Touch{{}}}
				_, err = generation.AddProfile(ctx, o, rec.Profile())
			}
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				far := &farRegistry{handler: handler, late: time.Second, log: t.Log}
				h, err := host.New(host.Config{
					Open: func(ctx context.Context, _ string) (host.Source, error) {
						o, err := open(ctx, far, []string{generation.Pointer})
						if err != nil {
							return host.Source{}, err
						}
						return host.Source{View: generation.NewView(o, generation.Options{})}, nil
					},
					Unwrappers: func(ctx context.Context, _ []string) ([]seal.Unwrapper, error) {
						id, err := app.identity(ctx, false)
						return id.opens, err
					},
					Frontends: map[string]host.Frontend{"reader": reader{}},
				})
				if err != nil {
					t.Fatal(err)
				}
				far.begun = time.Now()
				f, err := h.Find(t.Context(), host.Query{Store: app.storeURL, Image: published.SourceDigest, Soon: &host.Spec{}})
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("found after %v", time.Since(far.begun))
				_, err = h.Attach(t.Context(), host.Spec{Image: f.Digest, Store: app.storeURL, Frontend: "reader", Where: "/x"})
				if err != nil {
					t.Fatal(err)
				}
				rounds := int(time.Since(far.begun) / time.Second)
				t.Logf("%d round trips, %d requests", rounds, far.requests.Load())
				if rounds > 6 {
					t.Errorf("%d round trips one after the other, want at most 6", rounds)
				}
				if r := h.List()[0].Start.Replay; r == nil {
					t.Error("nothing is read ahead by the profile")
				}
				if err := h.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
