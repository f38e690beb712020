package telemetry_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/frontends"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/dir"
	webstore "github.com/rivuletfs/rivulet/store/http"
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/store/zone/zonetest"
	"github.com/rivuletfs/rivulet/telemetry"
	"github.com/rivuletfs/rivulet/tier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site is an image on a web server, and a host that reads it through a host cache and
// a zone.
type site struct {
	image   []byte       // what the file in it has
	asked   atomic.Int64 // chunks of the web server
	hold    atomic.Int64 // how long that takes for one, in nanoseconds
	node    string       // of the zone
	zone    *zone.Zone
	daemon  *cachedtest.Daemon
	client  *cachedclient.Client
	origins telemetry.Origins
	nbd     *frontends.NBD
	host    *host.Host
	uri     string
}

// cache is a host.Cache.
type cache struct{ *cachedclient.Client }

func (c cache) Reader(image origin.Requester, r chunk.Reader) chunk.Reader {
	return c.Client.Reader(r, image)
}

// newSite attaches the image, and tells onSlow of reads that take long.
func newSite(t *testing.T, slow time.Duration, onSlow func(*disk.SlowRead)) *site {
	t.Helper()
	s := &site{}
	web := s.publish(t)
	var err error
	node := zonetest.NewServer(t)
	s.node = node.Addr()
	if s.zone, err = zone.Open(zone.Config{Nodes: []string{node.URL()}, Scheme: zone.Whole{}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.zone.Close() })
	s.daemon = cachedtest.Start(t, func(c *cached.Config) { c.Zone, c.Lease = s.zone, time.Minute })
	s.client = cachedclient.New(cachedclient.Config{Socket: s.daemon.Socket, Wait: time.Minute, Silence: time.Minute})
	t.Cleanup(s.client.Close)
	s.nbd = &frontends.NBD{Keeper: keep.None{}}
	s.host, err = host.New(host.Config{
		Open: func(ctx context.Context, _ string) (host.Source, error) {
			c, err := webstore.ParseURL(web)
			if err != nil {
				return host.Source{}, err
			}
			o, err := webstore.Open(ctx, c)
			if err != nil {
				return host.Source{}, err
			}
			limit := &tier.Limit{Concurrent: 8}
			s.origins.Limited(limit)
			return host.Source{
				Near:  true, // so that all comes by chunks, which are counted: no metadata object
				View:  generation.NewView(s.origins.Counted(o), generation.Options{OnAlarm: s.origins.Alarm}),
				Bound: func(src chunk.Source, _ string) chunk.Source { return tier.Source(src, limit) },
			}, nil
		},
		Unwrappers: func(context.Context, []string) ([]seal.Unwrapper, error) { return nil, nil },
		Frontends:  map[string]host.Frontend{"nbd": s.nbd},
		Cache:      cache{s.client}, OnSlow: onSlow, Slow: slow,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.host.Close(); err != nil {
			t.Error(err)
		}
	})
	infos, err := s.host.Attach(t.Context(), host.Spec{Image: "tree", Store: web, Frontend: "nbd", Where: "unix:" + cachedtest.SocketIn(t), Name: "tree"})
	if err != nil {
		t.Fatal(err)
	}
	s.uri = infos[0].Address
	return s
}

// publish publishes an image of some chunks, and serves it as files.
func (s *site) publish(t *testing.T) (url string) {
	t.Helper()
	tree, store := t.TempDir(), t.TempDir()
	s.image = make([]byte, 3*chunk.Size)
	for i := range s.image {
		s.image[i] = byte(rand.Uint32()) // of which nothing can be compressed
	}
	if err := os.WriteFile(filepath.Join(tree, "file"), s.image, 0o644); err != nil {
		t.Fatal(err)
	}
	o, err := dir.Open(store, true)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sign.CreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = publish.Image(t.Context(), o, []string{"dir:" + tree}, publish.Options{Salt: salt, Signer: signer, Open: true, Name: "tree", TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(store))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/chunks/") { // not samples of hits
			s.asked.Add(1)
			time.Sleep(time.Duration(s.hold.Load()))
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	return web.URL
}
