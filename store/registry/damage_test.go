package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/internal/faultproxy"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// silent takes the digest away that a registry says of a manifest.
func silent(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		for name, v := range rec.Header() {
			w.Header()[name] = v
		}
		if r.Method != http.MethodPut {
			w.Header().Del("Docker-Content-Digest")
		}
		w.WriteHeader(rec.Code)
		_, _ = rec.Body.WriteTo(w)
	})
}

// TestDamage damages each single answer of a session, in each way. Where tests are
// to be short, only the hardest registries are tried: that say no digests.
func TestDamage(t *testing.T) {
	auth := &registrytest.Auth{User: "someone"}
	auth.SetPassword("secret-1")
	for name, c := range map[string]struct {
		referrers bool
		spare     int
		before    func(h http.Handler) http.Handler
	}{
		"referrers":             {true, 0, func(h http.Handler) http.Handler { return h }},
		"no digests":            {true, 0, silent},
		"no digests, in pieces": {true, spare, func(h http.Handler) http.Handler { return silent(&ranges{Handler: h}) }},
		"tokens, no referrers":  {false, 0, func(h http.Handler) http.Handler { auth.Handler = h; return auth }},
	} {
		if testing.Short() && !strings.HasPrefix(name, "no digests") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			proxy := proxied(t, registrytest.Memory(t, c.referrers, c.before))
			fill := hasty(t, proxy.Addr(), Options{Spare: c.spare, Keychain: &keychain{user: "someone", password: "secret-1"}})
			origintest.TestDamage(t, fill, func(t *testing.T) origin.Origin { return reopen(t, fill) }, origintest.Wire{
				Answers: func() int { n, _ := proxy.Requests(); return n },
				Spoil:   func(n int, how string, random uint64) { proxy.Single(n, faultproxy.Kind(how), random) },
			})
		})
	}
}

// TestForeignPointer finds, where a pointer should be, those of other names and
// generations, as after a mixed-up answer.
func TestForeignPointer(t *testing.T) {
	ctx := context.Background()
	_, host := faulty(t, true)
	o := hasty(t, host, Options{})
	one, two := o.generation(1), o.generation(2)
	for _, p := range []*pointers{&one.pointers, &two.pointers, &o.pointers} {
		if err := p.SwapPointer(ctx, "a", nil, []byte("right")); err != nil {
			t.Fatal(err)
		}
	}
	at := pointerTag(one.prefix, "a")
	for what, m := range map[string]*v1.Manifest{
		"name": one.manifest("b", []byte("wrong")), "generation": two.manifest("a", []byte("wrong")), "the origin": o.manifest("a", []byte("wrong")),
	} {
		b, desc := encodeManifest(m)
		if err := o.client.writeManifest(ctx, at, desc.MediaType, b); err != nil {
			t.Fatal(err)
		}
		if v, err := one.GetPointer(ctx, "a"); !errors.Is(err, ErrArtifact) || !errors.Is(err, origin.ErrCorrupt) || !strings.Contains(err.Error(), "get pointer a: ") {
			t.Errorf("of another %s: %q, %v; want ErrArtifact and the name", what, v, err)
		}
	}
}

// TestNoTwoAnswers asks a registry that says no digests, and never the same.
func TestNoTwoAnswers(t *testing.T) {
	var n atomic.Int64
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		return silent(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
				fmt.Fprintf(w, "[%d]", n.Add(1))
				return
			}
			h.ServeHTTP(w, r)
		}))
	})
	o := hasty(t, host, Options{})
	if _, _, err := o.client.readRaw(context.Background(), "tag", nil); !errors.Is(err, origin.ErrCorrupt) || n.Load() != sameAnswers {
		t.Errorf("%v after %d answers; want ErrCorrupt after %d", err, n.Load(), sameAnswers)
	}
}
