package registry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// A keychain has one login, which may change.
type keychain struct {
	mu             sync.Mutex
	user, password string
	asked          int
}

func (k *keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	return authn.FromConfig(authn.AuthConfig{Username: k.user, Password: k.password}), nil
}

func (k *keychain) set(password string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.password = password
}

// guarded starts a registry that wants a login.
func guarded(t testing.TB, uses int64) (*registrytest.Auth, string) {
	a := &registrytest.Auth{User: "someone", Uses: uses}
	a.SetPassword("secret-1")
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		a.Handler = h
		return a
	})
	return a, host
}

// TestTokensExpire does everything with tokens that are good for few requests.
func TestTokensExpire(t *testing.T) {
	ctx := context.Background()
	a, host := guarded(t, 3)
	o := hasty(t, host, Options{Keychain: &keychain{user: "someone", password: "secret-1"}, PackBytes: 10_000})
	s := o.Generation(1)
	list := small(1, 100)
	d := publishDisk(t, s, origin.Digest{}, list)
	attach(t, s, d, "age", "a wrap")
	origintest.TestPointerRace(t, s)
	again := reopen(t, o)
	checkDoor(t, again, list, false)
	if _, err := again.Generation(1).GetObject(ctx, d, origin.MaxObjectBytes); err != nil {
		t.Error(err)
	}
	if err := again.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
		t.Error(err)
	}
	if left := tagsOf(t, o); len(left) != 0 {
		t.Errorf("tags left: %q", left)
	}
	if a.Issued.Load() < 100 {
		t.Errorf("only %d tokens were asked for", a.Issued.Load())
	}
}

// TestLoginChanges lets a credential helper give a new password after the old
// one has expired.
func TestLoginChanges(t *testing.T) {
	a, host := guarded(t, 0)
	keys := &keychain{user: "someone", password: "secret-1"}
	o := hasty(t, host, Options{Keychain: keys})
	objects := chunktest.Fill(t, o.Generation(1))
	a.SetPassword("secret-2")
	keys.set("secret-2")
	checkDoor(t, o, objects, false)
	if err := o.SwapPointer(context.Background(), "p", nil, []byte("v")); err != nil {
		t.Error(err)
	}
}

// TestMountingNeedsBothRepositories checks what a token is asked for: a registry
// mounts from where the token lets us read.
func TestMountingNeedsBothRepositories(t *testing.T) {
	ctx := context.Background()
	a, host := guarded(t, 0)
	opts := Options{Keychain: &keychain{user: "someone", password: "secret-1"}}
	from, to := hasty(t, host, opts), hasty(t, host, opts)
	list := small(1, 3)
	putAll(t, from.Generation(1), list)
	flush(t, from.Generation(1))
	if _, err := to.generation(1).Adopt(ctx, list[0].ID, from.generation(1)); !errors.Is(err, ErrNotMounted) {
		t.Errorf("Adopt: %v", err) // this registry mounts nothing
	}
	for _, scope := range []string{to.client.repo.Scope("push,pull"), from.client.repo.Scope("pull")} {
		if !a.Asked(scope) {
			t.Errorf("no token was asked for with scope %s", scope)
		}
	}
}

// TestMountIsRefused lets a registry answer a mount by an error instead of
// beginning an upload.
func TestMountIsRefused(t *testing.T) {
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("mount") != "" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	from, to := hasty(t, host, Options{}), hasty(t, host, Options{})
	list := small(1, 2)
	putAll(t, from.Generation(1), list)
	flush(t, from.Generation(1))
	for range 2 { // the second time it is not even asked
		if _, err := to.generation(1).Adopt(context.Background(), list[0].ID, from.generation(1)); !errors.Is(err, ErrNotMounted) || errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("Adopt: %v; want ErrNotMounted", err)
		}
	}
}

// TestSecretsStaySecret collects all that is said while logins are wrong or
// expire, and URLs are signed, and looks for secrets in it.
func TestSecretsStaySecret(t *testing.T) {
	ctx := context.Background()
	a, host := guarded(t, 0)
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	keys := &keychain{user: "someone", password: "secret-1"}
	o := hasty(t, host, Options{Keychain: keys, Log: log})
	objects := chunktest.Fill(t, o.Generation(1))
	say := func(err error) {
		if err == nil {
			t.Error("no error")
			return
		}
		said.WriteString(err.Error() + "\n")
	}

	a.SetPassword("secret-2") // and keys still has the old one
	_, err := o.GetPointer(ctx, "p")
	if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "docker login "+host) {
		t.Errorf("GetPointer with an expired login: %v; want ErrUnauthorized, and what to do", err)
	}
	say(err)
	_, err = o.Generation(1).Fetch(ctx, objects[0].ID, make([]byte, 100), 0)
	if !errors.Is(err, ErrUnauthorized) {
		t.Errorf("Fetch with an expired login: %v", err)
	}
	say(err)
	_, err = Open(ctx, host+"/a", Options{Keychain: keys, Log: log})
	if !errors.Is(err, ErrUnauthorized) {
		t.Errorf("Open with a wrong login: %v", err)
	}
	say(err)
	keys.set("secret-2")
	a.ReadOnly.Store(true)
	err = o.SwapPointer(ctx, "p", nil, []byte("v"))
	if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "may not") {
		t.Errorf("SwapPointer with a login for reading: %v; want ErrDenied", err)
	}
	say(err)
	say(o.Generation(2).Attach(ctx, origin.Digest{}, "note", nil))

	r := redirecting(t)
	r.o.client.opts.Log = log
	r.Scheme = "ftp"
	_, err = r.o.Generation(1).Fetch(ctx, r.objects[0].ID, make([]byte, 100), 0)
	say(err)
	r.Scheme = ""
	r.other.Close()
	_, err = r.o.Generation(1).Fetch(ctx, r.objects[0].ID, make([]byte, 100), 0)
	say(err)

	for _, secret := range []string{"secret", "token-", "signature", "sig="} {
		if strings.Contains(strings.ToLower(said.String()), secret) {
			t.Errorf("%q was said:\n%s", secret, said.String())
		}
	}
}

// signed is an origin in a registry that sends us on to another server.
type signed struct {
	*registrytest.Redirect
	faults  *registrytest.Faults // before the registry
	other   *httptest.Server
	o       *Origin
	objects []chunktest.Object
}

func redirecting(t testing.TB) *signed {
	t.Helper()
	r := &signed{Redirect: new(registrytest.Redirect), faults: new(registrytest.Faults)}
	r.Expire()
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		r.Handler, r.faults.Handler = h, r.Redirect
		return r.faults
	})
	r.other = httptest.NewServer(http.HandlerFunc(r.Blobs))
	t.Cleanup(r.other.Close)
	r.To = r.other.URL
	r.o = hasty(t, host, Options{Keychain: &keychain{user: "someone", password: "p"}})
	r.objects = chunktest.Fill(t, r.o.Generation(1))
	return r
}

func TestRedirectsAreRemembered(t *testing.T) {
	r := redirecting(t)
	checkDoor(t, r.o, r.objects, false)
	r.faults.Reset()
	checkDoor(t, r.o, r.objects, false)
	if n := r.faults.Requests.Load(); n != 0 {
		t.Errorf("the registry was asked %d times for what had moved", n)
	}
	r.Expire()
	checkDoor(t, r.o, r.objects, false)
	if n := r.faults.Count(http.MethodGet, "/blobs/"); n != 1 || r.Refused.Load() != 1 {
		t.Errorf("when the URL had expired: %d requests to the registry, %d refused; want 1 and 1", n, r.Refused.Load())
	}
	if r.Leaked.Load() != 0 {
		t.Error("the login was sent to another server")
	}
	r.Scheme = "ftp"
	r.Expire()
	if failed := checkDoor(t, r.o, r.objects[:1], true); failed != 1 {
		t.Error("a redirect to another scheme was followed")
	}
}

func TestRedirectNotToPlain(t *testing.T) {
	from, err := http.NewRequest(http.MethodGet, "https://registry.example/v2/a/blobs/b", nil)
	if err != nil {
		t.Fatal(err)
	}
	for to, ok := range map[string]bool{"https://other.example/x": true, "/x": true, "http://other.example/x": false, "ftp://other.example/x": false, "": false} {
		resp := &http.Response{Request: from, Header: http.Header{}}
		if to != "" {
			resp.Header.Set("Location", to)
		}
		if _, err := redirect(resp); (err == nil) != ok {
			t.Errorf("redirect to %q: %v; want it followed: %v", to, err, ok)
		}
	}
}

// TestRequestHasToken makes a request in one process's place and sends it in
// another's, who has no login.
func TestRequestHasToken(t *testing.T) {
	_, host := guarded(t, 1000)
	open := func(t *testing.T) origin.Origin {
		return hasty(t, host, Options{Keychain: &keychain{user: "someone", password: "secret-1"}, PackBytes: 10_000})
	}
	s := open(t).Generation(1)
	list := chunktest.Fill(t, s)
	r, err := s.Request(context.Background(), list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Header) != 1 || !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
		t.Errorf("the request's header has %d fields, want a bearer token alone", len(r.Header))
	}
	q, err := http.NewRequest(http.MethodGet, r.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header = r.Header
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	_ = a.Body.Close()
	if a.StatusCode != http.StatusOK {
		t.Errorf("status %v", a.Status)
	}
}

// TestAheadOfLogin asks for a pointer before it is known how the registry wants
// credentials, of registries that want none, some, and that cannot be reached.
func TestAheadOfLogin(t *testing.T) {
	ctx := context.Background()
	a, guardedHost := guarded(t, 0)
	f, openHost := faulty(t, true)
	for _, c := range []struct {
		host string
		keys *keychain
	}{
		{openHost, &keychain{}},
		{openHost, &keychain{user: "someone", password: "not asked for"}},
		{guardedHost, &keychain{user: "someone", password: "secret-1"}},
	} {
		before := hasty(t, c.host, Options{Keychain: c.keys})
		if err := before.SwapPointer(ctx, "p", nil, []byte("v")); err != nil {
			t.Fatal(err)
		}
		f.Reset()
		after := reopenAhead(t, before, "p", "q")
		if v, err := after.GetPointer(ctx, "p"); err != nil || string(v) != "v" {
			t.Errorf("with %q: %q, %v", c.keys.user, v, err)
		}
		if _, err := after.GetPointer(ctx, "q"); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("with %q: %v; want ErrNotFound", c.keys.user, err)
		}
		after.Close()
		if n := f.Requests.Load(); c.keys.user == "" && n != 3 {
			t.Errorf("%d requests, want how to log in and a pointer each: %v", n, f)
		}
	}
	a.SetPassword("secret-2")
	for _, host := range []string{guardedHost, "127.0.0.1:1"} {
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		o, err := Open(short, host+"/a", Options{Keychain: &keychain{user: "someone", password: "secret-1"}, Ahead: []string{"p"}})
		cancel()
		if err == nil {
			o.Close()
			t.Errorf("%s was opened", host)
		}
	}
}

// reopenAhead is reopen with pointers that are read ahead.
func reopenAhead(t testing.TB, o *Origin, names ...string) *Origin {
	t.Helper()
	opts := *o.client.opts
	opts.Ahead = names
	return openRepo(t, o.Repository(), opts)
}
