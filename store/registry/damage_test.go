package registry

import (
	"net/http"
	"net/http/httptest"
	"testing"

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

// TestDamage damages each single answer of a session, in each way.
func TestDamage(t *testing.T) {
	auth := &registrytest.Auth{User: "someone"}
	auth.SetPassword("secret-1")
	for name, c := range map[string]struct {
		referrers bool
		before    func(h http.Handler) http.Handler
	}{
		"referrers":    {true, nil},
		"no referrers": {false, nil},
		"no digests":   {true, silent},
		"tokens":       {true, func(h http.Handler) http.Handler { auth.Handler = h; return auth }},
	} {
		t.Run(name, func(t *testing.T) {
			host := registrytest.Memory(t, c.referrers, func(h http.Handler) http.Handler {
				if c.before != nil {
					h = c.before(h)
				}
				return h
			})
			proxy := proxied(t, host)
			fill := hasty(t, proxy.Addr(), Options{Keychain: &keychain{user: "someone", password: "secret-1"}})
			origintest.TestDamage(t, fill, func(t *testing.T) origin.Origin { return reopen(t, fill) }, origintest.Wire{
				Answers: func() int { n, _ := proxy.Requests(); return n },
				Spoil:   func(n int, how string, random uint64) { proxy.Single(n, faultproxy.Kind(how), random) },
			})
		})
	}
}
