package s3

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

// before stands before a server and calls fn with each request, which fn may change,
// or answer, if it returns true. It returns where it listens.
func before(t *testing.T, server *s3test.Server, fn func(w http.ResponseWriter, r *http.Request) (answered bool)) string {
	t.Helper()
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(server.Endpoint)
		r.Out.Host = r.In.Host // it is signed
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !fn(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(front.Close)
	return strings.TrimPrefix(front.URL, "http://")
}

func mustSwap(t *testing.T, o *Origin, name string, old, new []byte) {
	t.Helper()
	if err := o.SwapPointer(ctx, name, old, new); err != nil {
		t.Error(err)
	}
}

// buried puts a tombstone in place of a pointer, age ago.
func buried(t *testing.T, server *s3test.Server, bucket string, o *Origin, name string, age time.Duration) (file string) {
	t.Helper()
	mustSwap(t, o, name, nil, []byte("v"))
	mustSwap(t, o, name, []byte("v"), nil)
	file = filepath.Join(server.Dir, bucket, filepath.FromSlash(place.Pointer(name)))
	then := time.Now().Add(-age)
	if err := os.Chtimes(file, then, then); err != nil {
		t.Fatal(err)
	}
	return file
}

func isThere(t *testing.T, file string) bool {
	t.Helper()
	_, err := os.Stat(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// TestSweep deletes a generation, which takes old tombstones of the origin along,
// and nothing else, where the server removes on a condition.
func TestSweep(t *testing.T) {
	server := s3test.Start(t)
	for _, c := range []struct {
		name  string
		bend  func(w http.ResponseWriter, r *http.Request) bool // of removals on a condition
		swept bool
	}{
		{"looks", func(http.ResponseWriter, *http.Request) bool { return false }, true},
		{"ignores", func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("If-Match"); return false }, false},
		{"refuses", func(w http.ResponseWriter, r *http.Request) bool {
			return answerError(w, r, http.StatusNotImplemented, "NotImplemented", "no", "")
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			bucket := server.NewBucket(t)
			direct := open(t, server.URL(bucket, ""))
			gone := buried(t, server, bucket, direct, "marks/gone", 3*tombstoneAge)
			young := buried(t, server, bucket, direct, "marks/young", time.Hour)
			set := buried(t, server, bucket, direct, "marks/set", 3*tombstoneAge)
			mustSwap(t, direct, "marks/live", nil, []byte("v"))
			meddle := func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodDelete || r.Header.Get("If-Match") == "" {
					return false
				}
				if strings.Contains(r.URL.Path, "/set") { // somebody sets it just before
					mustSwap(t, direct, "marks/set", nil, []byte("again"))
				}
				return c.bend(w, r)
			}
			o := open(t, server.Via(before(t, server, meddle), bucket, ""))
			for range 2 {
				if err := o.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
					t.Fatal(err)
				}
			}
			if isThere(t, gone) == c.swept {
				t.Errorf("an old tombstone: there %v, want %v", !c.swept, c.swept)
			}
			if !isThere(t, young) || !isThere(t, set) {
				t.Error("more than old tombstones is gone")
			}
			if isThere(t, filepath.Join(server.Dir, bucket, place.Probe)) {
				t.Error("what was asked with is still there")
			}
			want := []string{"marks/live"}
			if c.swept {
				want = append(want, "marks/set")
			}
			for _, name := range want {
				if _, err := direct.GetPointer(ctx, name); err != nil {
					t.Error(err)
				}
			}
			if _, err := direct.GetPointer(ctx, "marks/gone"); !errors.Is(err, chunk.ErrNotFound) {
				t.Errorf("%v; want ErrNotFound", err)
			}
		})
	}
}

// TestSwapWhileSwept: a pointer that was absent when it was read, and is, is set,
// though its tombstone was swept away between.
func TestSwapWhileSwept(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	file := buried(t, server, bucket, open(t, server.URL(bucket, "")), "p", 0)
	swept := false
	o := open(t, server.Via(before(t, server, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/pointers/") && !swept {
			swept = true
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
		}
		return false
	}), bucket, ""))
	mustSwap(t, o, "p", nil, []byte("v"))
	if b, err := o.GetPointer(ctx, "p"); err != nil || string(b) != "v" || !swept {
		t.Errorf("%q, %v", b, err)
	}
}
