package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/faultproxy"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
	"github.com/rivuletfs/rivulet/store/internal/link"
	"github.com/rivuletfs/rivulet/store/internal/retry"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
)

// faulty starts a registry whose faults are all off.
func faulty(t testing.TB, referrers bool) (*registrytest.Faults, string) {
	f := new(registrytest.Faults)
	host := registrytest.Memory(t, referrers, func(h http.Handler) http.Handler {
		f.Handler = h
		return f
	})
	return f, host
}

// hasty opens an origin that does not wait long before it tries again.
func hasty(t testing.TB, host string, opts Options) *Origin {
	t.Helper()
	o := openAt(t, host, opts)
	impatient(o)
	return o
}

// impatient lets o try again soon, and often.
func impatient(o *Origin) {
	o.client.again.First, o.client.again.Longest = time.Millisecond, 100*time.Millisecond
	o.client.again.Attempts = 12 // so that no request has bad luck each time: one in 10^8
	o.client.again.Budget = &retry.Budget{Burst: 1 << 30, Share: 1}
}

// reopen opens the repository of o as another process would.
func reopen(t testing.TB, o *Origin) *Origin {
	t.Helper()
	again := openRepo(t, o.Repository(), *o.client.opts)
	impatient(again)
	return again
}

// checkDoor reads every chunk through a door as another process would: right
// bytes or an error, and the error only if allowed is set.
func checkDoor(t *testing.T, o *Origin, objects []chunktest.Object, allowed bool) (failed int) {
	t.Helper()
	door := chunk.NewDoor(o.Generation(1))
	for _, c := range objects {
		got := make([]byte, len(c.Bytes))
		n, err := door.ReadChunk(context.Background(), c.ID, got, 0)
		if err == nil && !bytes.Equal(got[:n], c.Bytes) {
			t.Fatalf("chunk %v: wrong bytes", c.ID)
		}
		if err != nil {
			failed++
			if !allowed {
				t.Errorf("chunk %v: %v", c.ID, err)
			}
		}
	}
	return failed
}

// proxied returns a proxy before a registry, which has no faults yet.
func proxied(t testing.TB, host string) *faultproxy.Server {
	t.Helper()
	proxy, err := faultproxy.NewServer(host, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	return proxy
}

func TestFaultyAnswers(t *testing.T) {
	f, host := faulty(t, true)
	proxy := proxied(t, host)
	o := hasty(t, proxy.Addr(), Options{PackBytes: 1 << 20})
	objects := chunktest.Fill(t, o.Generation(1))
	network := func(f faultproxy.Faults) func() {
		return func() {
			if err := proxy.Set(f, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name  string
		begin func()
		mends bool // by trying again
		never bool // it always fails
	}{
		{"cut short", network(faultproxy.Faults{faultproxy.Truncate: 0.3}), true, false},
		{"always cut short", network(faultproxy.Faults{faultproxy.Truncate: 1}), false, true},
		{"bits flipped", network(faultproxy.Faults{faultproxy.Flip: 0.3}), false, false},
		{"connections lost", network(faultproxy.Faults{faultproxy.Reset: 0.15, faultproxy.LostAnswer: 0.1, faultproxy.HalfClose: 0.1}), true, false},
		{"goes on", func() { f.Grow.Store(true) }, true, false},
		{"no ranges", func() { f.NoRanges.Store(true) }, true, false},
		{"other ranges", func() { f.WrongRange.Store(true) }, false, true},
		{"429", func() { f.Throttle.Store(4) }, true, false},
		{"503", func() { f.Fail.Store(4) }, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := reopen(t, o)
			c.begin()
			defer func() {
				network(nil)()
				f.Grow.Store(false)
				f.NoRanges.Store(false)
				f.WrongRange.Store(false)
			}()
			failed := checkDoor(t, o, objects, !c.mends)
			if c.never != (failed == len(objects)) {
				t.Errorf("%d of %d reads failed", failed, len(objects))
			}
		})
	}
	checkDoor(t, o, objects, false)
}

// bad is a network, and a server, as bad as they may be for anything to work.
var bad = faultproxy.Faults{
	faultproxy.Unavailable: 0.03, faultproxy.TooMany: 0.03, faultproxy.Reset: 0.03, faultproxy.LostAnswer: 0.03,
	faultproxy.Truncate: 0.03, faultproxy.Short: 0.03, faultproxy.HalfClose: 0.03,
}

// TestStoreThroughFaults passes the suite on a bad day.
func TestStoreThroughFaults(t *testing.T) {
	_, host := faulty(t, true)
	proxy := proxied(t, host)
	if err := proxy.Set(bad, 0); err != nil {
		t.Fatal(err)
	}
	origintest.TestStore(t, func(t *testing.T) origin.Store {
		return hasty(t, proxy.Addr(), Options{}).Generation(1)
	})
}

// TestRealServerThroughFaults publishes to a real registry on a bad day, and
// reads from it while bits are flipped as well.
func TestRealServerThroughFaults(t *testing.T) {
	ctx := context.Background()
	proxy := proxied(t, registrytest.Distribution(t).Addr)
	if err := proxy.Set(bad, 0); err != nil {
		t.Fatal(err)
	}
	o := hasty(t, proxy.Addr(), Options{PackBytes: 50_000})
	list := small(1, 300)
	d := publishDisk(t, o.Generation(1), origin.Digest{}, list)
	attach(t, o.Generation(1), d, "age", "a wrap")
	if err := o.Generation(1).SwapPointer(ctx, "names/it", nil, []byte(d.String())); err != nil && !errors.Is(err, origin.ErrConflict) {
		t.Error(err) // a conflict: the answer to the first try was lost
	}
	worse := maps.Clone(bad)
	worse[faultproxy.Flip] = 0.1
	if err := proxy.Set(worse, 0); err != nil {
		t.Fatal(err)
	}
	o = reopen(t, o)
	if _, err := o.Generation(1).GetObject(ctx, d, origin.MaxObjectBytes); err != nil {
		t.Fatal(err)
	}
	door := chunk.NewDoor(o.Generation(1))
	flipped := 0
	for _, c := range list {
		got := make([]byte, len(c.Bytes))
		n, err := door.ReadChunk(ctx, c.ID, got, 0)
		var corrupt *chunk.CorruptError
		for ; errors.As(err, &corrupt); flipped++ { // as disk does
			n, err = door.ReadChunk(ctx, c.ID, got, 0)
		}
		if err != nil || !bytes.Equal(got[:n], c.Bytes) {
			t.Fatalf("chunk %v: %v, or wrong bytes", c.ID, err)
		}
	}
	if flipped == 0 {
		t.Error("no bit was flipped, so nothing was shown")
	}
}

func TestRefusedForGood(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	for name, c := range map[string]struct {
		refused int64
		set     func(n int64)
		want    error
		text    string
	}{
		"429": {1 << 30, f.Throttle.Store, ErrTooMany, "try again later"},
		"503": {1 << 30, f.Fail.Store, nil, "503 Service Unavailable (UNAVAILABLE)"},
	} {
		c.set(c.refused)
		f.Reset()
		_, err := o.GetPointer(context.Background(), "p")
		c.set(0)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		if n, want := f.Requests.Load(), int64(o.client.again.Attempts); n != want {
			t.Errorf("%s: asked %d times, want %d", name, n, want)
		}
	}
}

// TestRetryBudget checks that a registry in trouble is not asked many times by
// each of many.
func TestRetryBudget(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	o.client.again = link.NewPolicy()
	o.client.again.First, o.client.again.Longest = 0, time.Millisecond // too short to wait for what time earns
	f.Throttle.Store(1 << 30)
	f.Reset()
	const asks = 200
	for range asks {
		if _, err := o.GetPointer(context.Background(), "p"); !errors.Is(err, ErrTooMany) {
			t.Fatalf("GetPointer: %v", err)
		}
	}
	if n := f.Requests.Load(); n > asks*5/4+40 {
		t.Errorf("%d requests for %d questions", n, asks)
	}
}

// TestNoRangesOfLargePacks wants a clear error instead of gigabytes read for a
// frame.
func TestNoRangesOfLargePacks(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	f.NoRanges.Store(true)
	err := o.client.skip(&byterange.Answer{Body: http.NoBody}, maxSkip+1)
	if !errors.Is(err, ErrNoRanges) || !strings.Contains(err.Error(), host) {
		t.Errorf("reading far into a blob: %v; want ErrNoRanges and the registry's name", err)
	}
}

// TestStalled checks that a server that holds its breath is left.
func TestStalled(t *testing.T) {
	release := make(chan struct{})
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Length", "100")
				w.WriteHeader(http.StatusOK)
				_, _ = w.Write([]byte("{"))
				w.(http.Flusher).Flush()
				select {
				case <-release:
				case <-r.Context().Done():
				}
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	defer close(release)
	quick, err := link.New(link.Options{Stall: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	o := hasty(t, host, Options{Transport: quick})
	if _, err := o.GetPointer(context.Background(), "p"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("GetPointer: %v; want a deadline", err)
	}
	o = hasty(t, host, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := o.GetPointer(ctx, "p"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("GetPointer with a deadline: %v", err)
	}
}

func TestHostileAnswers(t *testing.T) {
	huge := strings.Repeat("x", 1<<16)
	var current atomic.Value // the answer; handlers of given-up requests may still run
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				h.ServeHTTP(w, r)
				return
			}
			switch answer, _ := current.Load().(string); answer {
			case "endless":
				for range maxManifestBytes/len(huge) + 10 {
					_, _ = w.Write([]byte(huge))
				}
			case "long":
				w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<40))
				_, _ = w.Write([]byte(huge))
			case "loop":
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			case "nowhere":
				w.WriteHeader(http.StatusTemporaryRedirect)
			default:
				_, _ = w.Write([]byte(answer))
			}
		})
	})
	for _, answer := range []string{"endless", "long", "loop", "nowhere", "", "{}", "[]", `{"config":{"mediaType":"` + typePointer + `"}}`,
		`{"config":{"mediaType":"` + typePointer + `"},"layers":[{}],"annotations":{"` + noteName + `":"p","` + noteValue + `":"?"}}`,
		`{"config":{"mediaType":"` + typePointer + `"},"layers":[{}],"annotations":{"` + noteName + `":"other","` + noteValue + `":""}}`,
		`{"config":{"mediaType":"` + typePacks + `"},"layers":[{"mediaType":"` + mediaIndex + `","size":-1}]}`,
		`{"tags":["rivulet-g1-k-00"],"layers":[{"mediaType":"` + mediaIndex + `","size":1099511627776}],"config":{"mediaType":"` + typePacks + `"}}`,
	} {
		current.Store(answer)
		o := hasty(t, host, Options{})
		s := o.Generation(1)
		if _, err := o.GetPointer(context.Background(), "p"); err == nil || errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("answer %.80q: GetPointer: %v", answer, err)
		}
		if _, err := s.GetObject(context.Background(), origin.Digest{}, 100); err == nil || errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("answer %.80q: GetObject: %v", answer, err)
		}
		if _, err := s.Fetch(context.Background(), chunktest.Absent, make([]byte, 10), 0); err == nil {
			t.Errorf("answer %.80q: Fetch: %v", answer, err)
		}
	}
}

func TestNoDelete(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	chunktest.Fill(t, o.Generation(1))
	f.NoDelete.Store(true)
	err := o.DeleteGeneration(context.Background(), 1, func(int) {})
	if !errors.Is(err, ErrNoDelete) || !strings.Contains(err.Error(), "operator") {
		t.Errorf("DeleteGeneration: %v; want ErrNoDelete, and what to do", err)
	}
	checkDoor(t, reopen(t, o), chunktest.Objects(1), false)
}

func TestParseURL(t *testing.T) {
	repo, o, err := ParseURL("oci://registry.example:5000/a/b?insecure=true&ca=/ca.pem&connections=7")
	if err != nil || repo != "registry.example:5000/a/b" || !o.Insecure || o.CAFile != "/ca.pem" || o.Connections != 7 {
		t.Errorf("%q, %+v, %v", repo, o, err)
	}
	for _, bad := range []string{"oci:h.example/a", "oci://", "oci://h", "oci://h.example/a:tag", "oci://h.example/a?x=y", "oci://h.example/a?insecure=yes", "oci://user:secret@h.example/a"} {
		_, _, err := ParseURL(bad)
		if err == nil {
			t.Errorf("%s is taken", bad)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	for ref, text := range map[string]string{
		"oci://localhost:1/a:tag":                               "leave out the tag",
		"oci://localhost:1/a@sha256:" + strings.Repeat("0", 64): "leave out the tag",
		"oci://noregistry":                                      "want oci://REGISTRY/REPOSITORY",
		"oci://":                                                "want oci://REGISTRY/REPOSITORY",
		"oci://localhost:1/UPPER":                               "want oci://REGISTRY/REPOSITORY",
	} {
		if _, err := Open(context.Background(), ref, Options{}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("Open %s: %v; want %q", ref, err, text)
		}
	}
	if _, err := Open(context.Background(), "localhost:1/a", Options{PackBytes: MaxPackBytes}); err == nil {
		t.Error("packs over the limit are taken")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, strings.TrimPrefix(closed.URL, "http://")+"/a", Options{}); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("Open of a registry that is not there: %v", err)
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	plain, err := link.New(link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Any name leads to the server, which this machine does not trust.
	plain.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, secure.Listener.Addr().String())
	}
	if _, err := Open(context.Background(), "www.example.com/a", Options{Transport: plain}); err == nil || !strings.Contains(err.Error(), "ca=FILE") {
		t.Errorf("Open with a certificate of a stranger: %v", err)
	}
}
