package registry

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

var repositories atomic.Int64

// openAt opens the origin in a new repository of a registry.
func openAt(t testing.TB, host string, opts Options) *Origin {
	t.Helper()
	return openRepo(t, fmt.Sprintf("%s/some/repo-%d", host, repositories.Add(1)), opts)
}

func openRepo(t testing.TB, repo string, opts Options) *Origin {
	t.Helper()
	if opts.Settle == 0 {
		opts.Settle = time.Nanosecond // nobody else changes pointers
	}
	if opts.TempDir == "" {
		opts.TempDir = t.TempDir()
	}
	o, err := Open(context.Background(), Scheme+repo, opts)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOrigin(t *testing.T) {
	for name, start := range map[string]func(t testing.TB) string{
		"Referrers":    func(t testing.TB) string { return registrytest.Memory(t, true, nil) },
		"NoReferrers":  func(t testing.TB) string { return registrytest.Memory(t, false, nil) },
		"Distribution": func(t testing.TB) string { return registrytest.Distribution(t, true) },
		"OCI":          registrytest.OCI,
	} {
		t.Run(name, func(t *testing.T) {
			host := start(t)
			origintest.TestOrigin(t, func(t *testing.T) origin.Origin { return openAt(t, host, Options{}) })
		})
	}
}

var _ http.Handler
