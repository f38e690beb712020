package registry

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
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

// TestServers tries everything on four registries: two in this process, of one of which
// objects are read in pieces too, and two programs. Where tests are to be short,
// Distribution stands for all four.
func TestServers(t *testing.T) {
	for _, server := range []struct {
		name   string
		mounts bool // blobs of another repository
		spare  int
		start  func(t testing.TB) string
	}{
		{"Referrers", false, 0, func(t testing.TB) string { return registrytest.Memory(t, true, nil) }},
		{"NoReferrers", false, 0, func(t testing.TB) string { return registrytest.Memory(t, false, nil) }},
		{"Pieces", false, spare, func(t testing.TB) string {
			return registrytest.Memory(t, true, func(h http.Handler) http.Handler { return &ranges{Handler: h} })
		}},
		{"Distribution", true, 0, func(t testing.TB) string { return registrytest.Distribution(t).Addr }},
		{"OCI", true, 0, registrytest.OCI},
	} {
		if testing.Short() && server.name != "Distribution" {
			continue
		}
		t.Run(server.name, func(t *testing.T) {
			host := server.start(t)
			origintest.TestOrigin(t, func(t *testing.T) origin.Origin { return openAt(t, host, Options{Spare: server.spare}) })
			t.Run("Requests", func(t *testing.T) {
				s := openAt(t, host, Options{}).Generation(1)
				origintest.TestRequests(t, s, chunktest.Fill(t, s))
			})
			t.Run("BlockMapRefersToItsImage", func(t *testing.T) { testBlockMapRefers(t, host) })
			t.Run("Converted", func(t *testing.T) { testConverted(t, host) })
			t.Run("Adopt", func(t *testing.T) { testAdopt(t, host, server.mounts) })
		})
	}
}
