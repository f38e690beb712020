package http

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/faultproxy"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// hide takes headers away from requests and answers.
func hide(h http.Handler, request, response []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range request {
			r.Header.Del(name)
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		for name, v := range rec.Header() {
			w.Header()[name] = v
		}
		for _, name := range response {
			w.Header().Del(name)
		}
		w.WriteHeader(rec.Code)
		_ = http.NewResponseController(w).Flush() // no length of net/http's own
		_, _ = rec.Body.WriteTo(w)
	})
}

func TestPoorServers(t *testing.T) {
	p := publish(t)
	files := http.FileServer(http.Dir(p.path))
	for name, handler := range map[string]http.Handler{
		"ignores ranges":     hide(files, []string{"Range"}, nil),
		"no lengths":         hide(files, nil, []string{"Content-Length"}),
		"neither":            hide(files, []string{"Range"}, []string{"Content-Length"}),
		"no ETags, no dates": hide(files, nil, []string{"Etag", "Last-Modified"}),
		"no HEAD": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			files.ServeHTTP(w, r)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t, handler)
			if name != "neither" {
				p.check(t, o)
			}
			s := o.Generation(1)
			door := chunk.NewDoor(s)
			for _, c := range p.chunks {
				for _, off := range []int64{0, int64(len(c.Bytes)) / 2, int64(len(c.Bytes))} {
					got := make([]byte, 1000)
					n, err := door.ReadChunk(ctx, c.ID, got, off)
					if want := c.Bytes[off:min(off+1000, int64(len(c.Bytes)))]; err != nil || !bytes.Equal(got[:n], want) {
						t.Errorf("at %d of %d: %d bytes, %v", off, len(c.Bytes), n, err)
					}
				}
			}
		})
	}
}

// TestEndless asks servers without end.
func TestEndless(t *testing.T) {
	p := publish(t)
	files := http.FileServer(http.Dir(p.path))
	endless := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			files.ServeHTTP(w, r)
			return
		}
		b := make([]byte, 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}
	s := open(t, http.HandlerFunc(endless)).Generation(1)
	if _, err := s.GetObject(ctx, p.object, 1<<20); err == nil {
		t.Error("an endless object has an end")
	}
	if _, err := s.GetPointer(ctx, "p"); err == nil {
		t.Error("an endless pointer has an end")
	}
	if _, err := s.Fetch(ctx, p.chunks[0].ID, make([]byte, 10), 1<<40); err == nil {
		t.Error("an endless chunk is read over")
	}
	if n, err := chunk.NewDoor(s).ReadChunk(ctx, p.chunks[0].ID, make([]byte, 10), 0); err == nil {
		t.Errorf("a door lets %d bytes pass", n)
	}
}

// A cache keeps answers by path and range for ever, unless it is asked with
// no-cache, and cuts ranges out of what it has whole.
type cache struct {
	next http.Handler
	mu   sync.Mutex
	kept map[string][]byte
	hits int
}

func (c *cache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, ok := c.kept[r.URL.Path]
	if !ok || r.Header.Get("Cache-Control") == "no-cache" {
		whole := r.Clone(r.Context())
		whole.Method = http.MethodGet
		whole.Header = http.Header{}
		rec := httptest.NewRecorder()
		c.next.ServeHTTP(rec, whole)
		if rec.Code != http.StatusOK {
			delete(c.kept, r.URL.Path)
			w.WriteHeader(rec.Code)
			return
		}
		body = rec.Body.Bytes()
		c.kept[r.URL.Path] = body
	} else {
		c.hits++
	}
	w.Header().Set("Age", "5")
	w.Header().Set("ETag", `"`+strconv.Itoa(len(body))+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

func TestCache(t *testing.T) {
	p := publish(t)
	c := &cache{next: http.FileServer(http.Dir(p.path)), kept: map[string][]byte{}}
	o := open(t, c)
	p.check(t, o)
	chunktest.TestReader(t, chunk.NewDoor(o.Generation(1)), p.chunks)
	if c.hits < 100 {
		t.Errorf("%d answers of the cache; chunks must be cached", c.hits)
	}
	// A pointer that has changed is seen at once, and so is a new attachment.
	if err := p.origin.SwapPointer(ctx, "names/Some%41/Image:1", []byte("value"), []byte("new")); err != nil {
		t.Fatal(err)
	}
	if v, err := o.GetPointer(ctx, "names/Some%41/Image:1"); err != nil || string(v) != "new" {
		t.Errorf("a changed pointer: %q, %v", v, err)
	}
	if err := p.store.Attach(ctx, p.object, "note", []byte("three")); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := o.Generation(1).ListAttachments(ctx, p.object, "note", func([]byte) error { n++; return nil }); err != nil || n != 3 {
		t.Errorf("%d attachments, %v; want 3", n, err)
	}
	// What the cache has damaged is asked for anew.
	c.mu.Lock()
	c.kept["/"+place.Generation(1)+"/"+place.Hashed(place.Objects, p.object)] = []byte("damaged")
	c.mu.Unlock()
	if b, err := o.Generation(1).GetObject(ctx, p.object, origin.MaxObjectBytes); err != nil || !bytes.Equal(b, p.content) {
		t.Errorf("an object that the cache has damaged: %d bytes, %v", len(b), err)
	}
}

// TestFaults reads through a proxy that misbehaves: nothing wrong passes.
func TestFaults(t *testing.T) {
	p := publish(t)
	server := httptest.NewServer(http.FileServer(http.Dir(p.path)))
	defer server.Close()
	proxy, err := faultproxy.NewServer(strings.TrimPrefix(server.URL, "http://"), nil, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	o := openURL(t, "http://"+proxy.Addr())
	err = proxy.Set(faultproxy.Faults{
		faultproxy.Unavailable: 0.02, faultproxy.TooMany: 0.02, faultproxy.Reset: 0.02, faultproxy.LostAnswer: 0.02,
		faultproxy.Truncate: 0.05, faultproxy.Short: 0.03, faultproxy.Flip: 0.08, faultproxy.HalfClose: 0.05,
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, rng, failed := o.Generation(1), rand.New(rand.NewPCG(1, 1)), 0
	for range 300 {
		c := &p.chunks[rng.IntN(len(p.chunks))]
		off := rng.Int64N(int64(len(c.Bytes)))
		got := make([]byte, rng.Int64N(int64(len(c.Bytes))-off)+1)
		n, err := chunk.NewDoor(s).ReadChunk(ctx, c.ID, got, off)
		if err != nil {
			failed++
		} else if !bytes.Equal(got[:n], c.Bytes[off:off+int64(len(got))]) {
			t.Fatalf("wrong bytes at %d of %v", off, c.ID)
		}
	}
	for range 30 {
		if b, err := s.GetObject(ctx, p.object, origin.MaxObjectBytes); err == nil && !bytes.Equal(b, p.content) {
			t.Fatal("a wrong object")
		}
	}
	_, counts := proxy.Requests()
	t.Logf("%v, %d of 300 reads failed", counts, failed)
	if failed == 0 || failed > 150 || counts[faultproxy.Flip] < 5 {
		t.Errorf("%d reads failed, faults %v", failed, counts)
	}
}
