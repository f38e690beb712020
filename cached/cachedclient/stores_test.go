package cachedclient

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

// login is the one login of a registry.
type login struct{}

func (login) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig{Username: "someone", Password: "secret"}), nil
}

// TestStores reads through the daemon from stores of every kind: it downloads
// from those that are far, with what they ask for, and is brought the rest.
func TestStores(t *testing.T) {
	far := func(t *testing.T, address string) origin.Store {
		o, err := store.Open(ctx, address, store.Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := o.(interface{ Close() }); ok {
			t.Cleanup(c.Close)
		}
		return o.Generation(1)
	}
	for name, k := range map[string]struct {
		open     func(t *testing.T) origin.Store
		download bool
	}{
		"s3": {func(t *testing.T) origin.Store {
			server := s3test.Start(t)
			return far(t, server.URL(server.NewBucket(t), "p"))
		}, true},
		"registry": {func(t *testing.T) origin.Store {
			a := &registrytest.Auth{User: "someone", Uses: 1000}
			a.SetPassword("secret")
			host := registrytest.Memory(t, true, func(h http.Handler) http.Handler { a.Handler = h; return a })
			o, err := registry.Open(ctx, host+"/some/where", registry.Options{Keychain: login{}, Insecure: true})
			if err != nil {
				t.Fatal(err)
			}
			return o.Generation(1)
		}, true},
		"dir": {func(t *testing.T) origin.Store {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "store"), 0o700); err != nil {
				t.Fatal(err)
			}
			return far(t, "dir:"+filepath.Join(dir, "store"))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := k.open(t)
			list := chunktest.Fill(t, s)
			d := cachedtest.Start(t, nil)
			c := client(t, d.Socket, nil)
			for i := range list {
				readWholly(t, c.Reader(chunk.NewDoor(s), s), &list[i])
			}
			st := d.Server.Stats()
			if k.download && (st.Downloads != int64(len(list)) || st.Deposits != 0) || !k.download && st.Deposits != int64(len(list)) {
				t.Errorf("%d downloads and %d deposits of %d chunks", st.Downloads, st.Deposits, len(list))
			}
			again := client(t, d.Socket, nil)
			for i := range list {
				readWholly(t, again.Reader(gone{}, nil), &list[i])
			}
		})
	}
}
