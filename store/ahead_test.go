package store

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/registry/registrytest"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

// A witness notes what is asked for whose path has a word in it.
type witness struct {
	server http.Handler
	word   string

	mu    sync.Mutex // guards asked
	asked int
	first chan struct{} // closed when it was asked for
}

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, w.word) && r.Method == http.MethodGet {
		w.mu.Lock()
		if w.asked++; w.asked == 1 {
			close(w.first)
		}
		w.mu.Unlock()
	}
	w.server.ServeHTTP(rw, r)
}

func (w *witness) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// TestAhead opens stores that are to ask ahead for pointers of the origin and of a
// generation: each is asked for before anybody wants it, and not again when somebody
// does; after that it is.
func TestAhead(t *testing.T) {
	t.Run("s3", func(t *testing.T) {
		server := s3test.Start(t)
		bucket := server.NewBucket(t)
		testAhead(t, inFront(server), func(host string) string { return server.Via(host, bucket, "p") })
	})
	t.Run("registry", func(t *testing.T) {
		var server http.Handler
		registrytest.Memory(t, true, func(h http.Handler) http.Handler { server = h; return h })
		testAhead(t, server, func(host string) string { return fmt.Sprintf("oci://%s/team/app", host) })
	})
}

func testAhead(t *testing.T, server http.Handler, address func(host string) string) {
	const word = "somethingspecial"
	front := httptest.NewServer(server)
	t.Cleanup(front.Close)
	o, err := Open(ctx, address(strings.TrimPrefix(front.URL, "http://")), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []origin.Pointers{o, o.Generation(7)} {
		if err := p.SwapPointer(ctx, word, nil, []byte("value")); err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]struct {
		opts Options
		of   func(origin.Origin) origin.Pointers
	}{
		"of the origin":   {Options{Ahead: []string{word}}, func(o origin.Origin) origin.Pointers { return o }},
		"of a generation": {Options{AheadIn: map[origin.GenerationID][]string{7: {word}}}, func(o origin.Origin) origin.Pointers { return o.Generation(7) }},
	} {
		w := &witness{server: server, word: word, first: make(chan struct{})}
		front := httptest.NewServer(w)
		t.Cleanup(front.Close)
		o, err := Open(ctx, address(strings.TrimPrefix(front.URL, "http://")), c.opts)
		if err != nil {
			t.Fatal(err)
		}
		<-w.first
		for _, want := range []bool{false, true} { // whether more is asked
			before := w.count()
			if v, err := c.of(o).GetPointer(ctx, word); err != nil || string(v) != "value" {
				t.Errorf("%s: %q, %v", what, v, err)
			}
			if before < 1 || !want && before > 1 {
				t.Errorf("%s: asked %d times before", what, before)
			}
			if want && w.count() == before {
				t.Errorf("%s: not asked for a second time", what)
			}
		}
		o.(interface{ Close() }).Close()
	}
}
