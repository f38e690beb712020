package credentials

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/registry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// TestRegistry reads a store as an agent does, in a registry whose tokens are good for three
// requests: first with what the image was pulled with; then that password ends, and
// a plugin has the next one, again and again, before each is over.
func TestRegistry(t *testing.T) {
	a := &registrytest.Auth{User: "someone", Uses: 3}
	a.SetPassword("secret-0")
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		a.Handler = h
		return a
	})
	var log bytes.Buffer
	plugin, dir := plugins(t, &log)
	var clock atomic.Int64 // seconds
	plugin.now = func() time.Time { return time.Unix(1e9+clock.Load(), 0) }
	match, err := parsePattern(host)
	if err != nil {
		t.Fatal(err)
	}
	plugin.list[0].images = []pattern{match}
	say := func(n int) {
		a.SetPassword(fmt.Sprint("secret-", n))
		writeFile(t, filepath.Join(dir, "answer"), answerOf("Registry", "10m",
			fmt.Sprintf(`{%q: {"username": "someone", "password": "secret-%d"}}`, host, n)), 0o600)
	}
	pulls, err := OpenPulls("")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "logins.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, Keychain{Pulls: pulls, Plugins: plugin}) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	pulledWith := authn.AuthConfig{Username: "someone", Password: "secret-0"}
	if _, err := pulls.Learn(host+"/team/app:1", pulledWith); err != nil {
		t.Fatal(err)
	}
	o, err := registry.Open(t.Context(), host+"/team/app", registry.Options{Keychain: NewClient(filepath.Join(dir, "logins.sock"))})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	s := o.Generation(1)
	objects := chunktest.Fill(t, s)
	read := func() {
		t.Helper()
		for _, want := range objects {
			got := make([]byte, len(want.Bytes))
			if n, err := s.Fetch(t.Context(), want.ID, got, 0); err != nil || !bytes.Equal(got[:n], want.Bytes) {
				t.Fatalf("%v: %v: %s", want.ID, err, &log)
			}
		}
	}
	read()
	pulls.mu.Lock()
	for r, l := range pulls.logins {
		l.When = l.When.Add(-newTime)
		pulls.logins[r] = l
	}
	pulls.mu.Unlock()
	for n := range 4 {
		say(n + 1)
		clock.Add(9*60 + 1)
		read()
	}
	if n := a.Issued.Load(); n < 5 {
		t.Errorf("%d tokens were asked for", n)
	}
}
