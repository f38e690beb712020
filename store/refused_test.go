package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

// A gate lets some requests through to a server, and then no more.
type gate struct {
	server http.Handler
	left   atomic.Int64
	refuse atomic.Value // http.HandlerFunc
}

const open = 1 << 40 // requests that a gate lets through

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.left.Add(-1) < 0 {
		g.refuse.Load().(http.HandlerFunc)(w, r)
		return
	}
	g.server.ServeHTTP(w, r)
}

// A refusal is why a server does not do what it is asked.
type refusal struct {
	name   string
	answer http.HandlerFunc
	says   string // what to do, in the error
	lasts  bool   // it may pass, so that it is waited for
}

func s3Error(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
	}
}

func registryError(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[{"code":%q}]}`, code)
	}
}

// hangUp ends the connection without an answer.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// TestRefused has servers refuse all from some request of a publication on, in every way:
// it fails and says what to do, whatever is in the store is whole, what was published
// before can be read, and published again, the image is what it should be.
func TestRefused(t *testing.T) {
	t.Run("s3", func(t *testing.T) {
		server := s3test.Start(t)
		testRefused(t, inFront(server), func(host string) string { return server.Via(host, server.NewBucket(t), "p") }, []refusal{
			{"credentials expired", s3Error(400, "ExpiredToken"), "the credentials have expired; renew them", true},
			{"clock skewed", s3Error(403, "RequestTimeTooSkewed"), "clock is wrong", false},
			{"bucket gone", s3Error(404, "NoSuchBucket"), "there is no bucket", false},
			{"denied", s3Error(403, "AccessDenied"), "the credentials do not allow this", false},
			{"429", s3Error(429, "TooManyRequests"), "try again later", true},
			{"503", s3Error(503, "SlowDown"), "try again later", true},
			{"connections closed", hangUp, "closes connections without an answer", true},
		})
	})
	for name, referrers := range map[string]bool{"registry": true, "registry without referrers": false} {
		t.Run(name, func(t *testing.T) {
			var server http.Handler
			registrytest.Memory(t, referrers, func(h http.Handler) http.Handler { server = h; return h })
			n := 0
			testRefused(t, server, func(host string) string { n++; return fmt.Sprintf("oci://%s/team/app%d", host, n) }, []refusal{
				{"login expired", registryError(401, "UNAUTHORIZED"), "run docker login", false},
				{"denied", registryError(403, "DENIED"), "may not do that", false},
				{"429", registryError(429, "TOOMANYREQUESTS"), "try again later", true},
				{"503", registryError(503, "UNAVAILABLE"), "503", true},
				{"connections closed", hangUp, "closes connections without an answer", true},
			})
		})
	}
}

// inFront forwards to an S3 server.
func inFront(server *s3test.Server) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server.Endpoint)
			r.Out.Host = r.In.Host // which is signed
		},
		ErrorLog: log.New(io.Discard, "", 0), // of clients that have had enough
	}
}

func testRefused(t *testing.T, server http.Handler, address func(host string) string, refusals []refusal) {
	g := &gate{server: server}
	front := httptest.NewServer(g)
	t.Cleanup(front.Close)
	trees := [2]string{t.TempDir(), t.TempDir()}
	for i, dir := range trees {
		for k := i; k < i+3; k++ {
			content := chunktest.Random(uint64(k), 100_000, chunk.FrameSize).Bytes
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", k)), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			if c.lasts && testing.Short() {
				t.Skip("waits, as the others do not")
			}
			g.refuse.Store(c.answer)
			p := &refusedPublisher{t: t, address: address(strings.TrimPrefix(front.URL, "http://")), temp: t.TempDir()}
			p.salt, _ = seal.NewSalt(seal.DefaultDomain, 1)
			p.signer, _ = sign.NewKey()
			g.left.Store(open)
			first := p.must("first", trees[0])
			g.left.Store(open)
			p.check(first)
			used := int64(0)
			steps := []int64{0, 4, 12, 20, 32}
			if c.lasts || testing.Short() {
				steps = []int64{12} // it is waited for
			}
			for _, n := range steps {
				g.left.Store(n)
				short, cancel := context.WithTimeout(ctx, 20*time.Second)
				if c.lasts {
					cancel()
					short, cancel = context.WithTimeout(ctx, time.Second)
				}
				_, err := p.publish(short, "second", trees[1])
				cancel()
				if err != nil {
					used++
					if !strings.Contains(err.Error(), c.says) && (!c.lasts || !errors.Is(err, context.DeadlineExceeded)) {
						t.Errorf("refused after %d requests: %v; want %q", n, err, c.says)
					}
				}
				g.left.Store(open)
				p.check(first)
				if err == nil {
					break // so many requests are enough for all of it
				}
			}
			if used == 0 {
				t.Error("nothing was ever refused: no test")
			}
			p.check(first, p.must("second", trees[1]))
		})
	}
}

// A refusedPublisher publishes by a process of its own each time.
type refusedPublisher struct {
	t       *testing.T
	address string
	temp    string
	salt    *seal.Salt
	signer  *sign.Key
}

func (p *refusedPublisher) open(ctx context.Context) (origin.Origin, error) {
	return Open(ctx, p.address, Options{Create: true})
}

func (p *refusedPublisher) publish(ctx context.Context, name, tree string) (*publish.Result, error) {
	o, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	return publish.Image(ctx, o, []string{"dir:" + tree}, publish.Options{Salt: p.salt, Signer: p.signer, Open: true, Name: name, TempDir: p.temp})
}

func (p *refusedPublisher) must(name, tree string) *publish.Result {
	p.t.Helper()
	r, err := p.publish(ctx, name, tree)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// check reads all that is in the store, which must be whole, and have these images.
func (p *refusedPublisher) check(images ...*publish.Result) {
	p.t.Helper()
	o, err := p.open(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := fsck.Check(ctx, o, fsck.Options{Deep: true})
	if err != nil || !r.Sound() || r.Images < len(images) {
		p.t.Fatalf("fsck: %d images, problems %v, %v; want %d images and none", r.Images, r.Problems, err, len(images))
	}
	view := generation.NewView(o, generation.Options{})
	for _, want := range images {
		if d, err := view.Find(ctx, want.Name); err != nil || d.String() != want.BlockMap {
			p.t.Errorf("%s leads to %v, %v; want %s", want.Name, d, err, want.BlockMap)
		}
	}
}
