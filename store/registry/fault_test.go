package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
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
	o.client.pause = time.Millisecond
	return o
}

// reopen opens the repository of o as another process would.
func reopen(t testing.TB, o *Origin) *Origin {
	t.Helper()
	again := openRepo(t, o.Repository(), *o.client.opts)
	again.client.pause = time.Millisecond
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

func TestFaultyAnswers(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{PackBytes: 1 << 20})
	objects := chunktest.Fill(t, o.Generation(1))
	for _, c := range []struct {
		name  string
		set   func(on int64)
		mends bool // by trying again
		never bool // it always fails
	}{
		{"cut short", func(on int64) { f.Truncate.Store(2 * on) }, true, false},
		{"always cut short", func(on int64) { f.Truncate.Store(on) }, false, true},
		{"bits flipped", func(on int64) { f.Flip.Store(3 * on) }, false, false},
		{"goes on", func(on int64) { f.Grow.Store(2 * on) }, true, false},
		{"connections lost", func(on int64) { f.Drop.Store(3 * on) }, true, false},
		{"no ranges", func(on int64) { f.NoRanges.Store(on > 0) }, true, false},
		{"other ranges", func(on int64) { f.WrongRange.Store(on > 0) }, false, true},
		{"429", func(on int64) { f.Throttle.Store(4 * on) }, true, false},
		{"503", func(on int64) { f.Fail.Store(4 * on) }, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := reopen(t, o)
			c.set(1)
			defer c.set(0)
			failed := checkDoor(t, o, objects, !c.mends)
			if c.never != (failed == len(objects)) {
				t.Errorf("%d of %d reads failed", failed, len(objects))
			}
		})
	}
	checkDoor(t, o, objects, false)
}

// TestStoreThroughFaults passes the suite while connections break and answers
// are cut short.
func TestStoreThroughFaults(t *testing.T) {
	f, host := faulty(t, true)
	f.Truncate.Store(13)
	f.Drop.Store(17)
	origintest.TestStore(t, func(t *testing.T) origin.Store {
		o := hasty(t, host, Options{})
		o.client.retries = 1 << 40 // of what is spent on purpose
		return o.Generation(1)
	})
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
		if n := f.Requests.Load(); n != maxAttempts {
			t.Errorf("%s: asked %d times, want %d", name, n, maxAttempts)
		}
	}
}

// TestRetryBudget checks that a registry in trouble is not asked many times by
// each of many.
func TestRetryBudget(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	f.Throttle.Store(1 << 30)
	f.Reset()
	const asks = 100
	for range asks {
		if _, err := o.GetPointer(context.Background(), "p"); !errors.Is(err, ErrTooMany) {
			t.Fatalf("GetPointer: %v", err)
		}
	}
	if n := f.Requests.Load(); n > asks+retryBudget {
		t.Errorf("%d requests for %d questions", n, asks)
	}
	f.Throttle.Store(0)
	if o.client.spend() {
		t.Error("there are retries left")
	}
	chunktest.Fill(t, o.Generation(1)) // that earns some
	for range 20 {
		if err := o.ListGenerations(context.Background(), func(origin.GenerationID) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if !o.client.spend() {
		t.Error("no retry was earned")
	}
}

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		status   int
		value    string
		min, max time.Duration
	}{
		{429, "2", 2 * time.Second, 2*time.Second + firstPause},
		{503, "1", time.Second, time.Second + firstPause},
		{429, time.Now().Add(10 * time.Second).UTC().Format(http.TimeFormat), 8 * time.Second, 10*time.Second + firstPause},
		{429, "99999999", maxRetryAfter, maxRetryAfter + firstPause},
		{429, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), 0, 0},
		{429, "-5", 0, 0}, {429, "soon", 0, 0}, {429, "", 0, 0}, {500, "5", 0, 0},
	} {
		resp := &http.Response{StatusCode: c.status, Header: http.Header{"Retry-After": {c.value}}}
		if got := retryAfter(resp); got < c.min || got > c.max {
			t.Errorf("%d, Retry-After %q: wait %v, want %v to %v", c.status, c.value, got, c.min, c.max)
		}
	}
}

func TestContentRange(t *testing.T) {
	for value, ok := range map[string]bool{
		"bytes 5-9/100": true, "bytes 5-9/*": true,
		"bytes 5-9/101": false, "bytes 4-9/100": false, "bytes 5-8/100": false, "bytes 5-10/100": false,
		"bytes */100": false, "bytes 5-9": false, "5-9/x": false, "": false, "bytes -5-9/100": false,
	} {
		if err := checkContentRange(value, 5, 10, 100); (err == nil) != ok {
			t.Errorf("Content-Range %q: %v; want it taken: %v", value, err, ok)
		}
	}
}

// TestNoRangesOfLargePacks wants a clear error instead of gigabytes read for a
// frame.
func TestNoRangesOfLargePacks(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	f.NoRanges.Store(true)
	resp := &http.Response{Body: http.NoBody}
	err := o.client.readThrough(resp, maxSkip+1, nil)
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
	o := hasty(t, host, Options{})
	o.client.stall = 20 * time.Millisecond
	if _, err := o.GetPointer(context.Background(), "p"); !errors.Is(err, errStalled) {
		t.Errorf("GetPointer: %v; want errStalled", err)
	}
	o.client.stall = time.Hour
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := o.GetPointer(ctx, "p"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("GetPointer with a deadline: %v", err)
	}
}

func TestHostileAnswers(t *testing.T) {
	huge := strings.Repeat("x", 1<<16)
	answer := ""
	host := registrytest.Memory(t, true, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				h.ServeHTTP(w, r)
				return
			}
			switch answer {
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
	for _, answer = range []string{"endless", "long", "loop", "nowhere", "", "{}", "[]", `{"config":{"mediaType":"` + typePointer + `"}}`,
		`{"config":{"mediaType":"` + typePointer + `"},"layers":[{}],"annotations":{"` + noteName + `":"p","` + noteValue + `":"?"}}`,
		`{"config":{"mediaType":"` + typePointer + `"},"layers":[{}],"annotations":{"` + noteName + `":"other","` + noteValue + `":""}}`,
		`{"config":{"mediaType":"` + typePacks + `"},"layers":[{"mediaType":"` + mediaIndex + `","size":-1}]}`,
		`{"tags":["rivulet-g1-k-00"],"layers":[{"mediaType":"` + mediaIndex + `","size":1099511627776}],"config":{"mediaType":"` + typePacks + `"}}`,
	} {
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
	if _, err := Open(ctx, strings.TrimPrefix(closed.URL, "http://")+"/a", Options{}); err == nil {
		t.Error("a registry that is not there is opened")
	}
}
