// Package cachedtest has what tests and benchmarks of the host cache need: a
// daemon in this process over a directory of the test's, and an origin that
// answers by HTTP and counts.
package cachedtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/cache"
	"github.com/rivuletfs/rivulet/store/download"
)

// A Daemon is a host cache in this process.
type Daemon struct {
	Server *cached.Server
	Cache  *cache.Cache
	Socket string
	Dir    string

	disk     cache.Config
	change   func(c *cached.Config)
	download *download.Client
	served   chan error
	stopped  bool
}

// Start starts a daemon, ended with the test. change, unless it is nil, changes
// its configuration.
func Start(t testing.TB, change func(c *cached.Config)) *Daemon {
	t.Helper()
	return StartIn(t, t.TempDir(), cache.Config{MaxBytes: 1 << 30}, change)
}

// StartIn starts a daemon whose cache lies in dir.
func StartIn(t testing.TB, dir string, disk cache.Config, change func(c *cached.Config)) *Daemon {
	t.Helper()
	d := &Daemon{Dir: filepath.Join(dir, "cache"), Socket: SocketIn(t), disk: disk, change: change, stopped: true}
	d.disk.Dir = d.Dir
	d.Restart(t)
	t.Cleanup(func() { d.Stop(t) })
	return d
}

// Restart ends the daemon, if it runs, and starts it again at the same place.
func (d *Daemon) Restart(t testing.TB) {
	t.Helper()
	d.Stop(t)
	var err error
	if d.Cache, err = cache.Open(context.Background(), d.disk); err != nil {
		t.Fatal(err)
	}
	if d.download, err = download.New(download.Options{}); err != nil {
		t.Fatal(err)
	}
	c := cached.Config{Cache: d.Cache, Download: d.download}
	if d.change != nil {
		d.change(&c)
	}
	if d.Server, err = cached.New(c); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func(s *cached.Server) { served <- s.Serve(l) }(d.Server)
	d.served, d.stopped = served, false
}

// SocketIn returns the path of a socket in a folder of the test's whose name is
// short enough for one.
func SocketIn(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cached")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// Stop ends the daemon, if it runs.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	if d.stopped {
		return
	}
	d.stopped = true
	d.Server.Close()
	if err := <-d.served; !errors.Is(err, cached.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	if err := d.Cache.Close(); err != nil {
		t.Errorf("close the cache: %v", err)
	}
	d.download.Close()
}

// An Origin is a web server that has chunks. As a chunk.Source and
// origin.Requester it is also what a client of it has.
type Origin struct {
	URL string

	server *httptest.Server

	mu      sync.Mutex // guards what follows
	objects map[chunk.ID][]byte
	asked   map[chunk.ID]int
	sent    int64
	answer  func(w http.ResponseWriter, r *http.Request, id chunk.ID, object []byte) bool
	delay   time.Duration
}

// Secret is the token that an Origin wants.
const Secret = "a-token-that-nobody-may-see"

// NewOrigin returns an origin that has the objects.
func NewOrigin(t testing.TB, list ...chunktest.Object) *Origin {
	t.Helper()
	o := &Origin{objects: make(map[chunk.ID][]byte), asked: make(map[chunk.ID]int)}
	for _, c := range list {
		o.objects[c.ID] = c.Bytes
	}
	o.server = httptest.NewServer(o)
	o.URL = o.server.URL
	t.Cleanup(o.server.Close)
	return o
}

// Answer has fn answer requests for chunks first; true says that it did.
func (o *Origin) Answer(fn func(w http.ResponseWriter, r *http.Request, id chunk.ID, object []byte) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = fn
}

// Delay puts off answers.
func (o *Origin) Delay(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.delay = d
}

// Asked returns how often each chunk was asked for by HTTP.
func (o *Origin) Asked() map[chunk.ID]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.asked)
}

// ServeHTTP implements http.Handler.
func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, err := chunk.ParseID(strings.TrimPrefix(r.URL.Path, "/"))
	if r.Header.Get("Authorization") != "Bearer "+Secret {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	o.mu.Lock()
	o.asked[id]++
	object, answer, delay := o.objects[id], o.answer, o.delay
	o.mu.Unlock()
	time.Sleep(delay)
	if answer != nil && answer(w, r, id, object) {
		return
	}
	if err != nil || object == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	from, end := 0, len(object)
	if rng := r.Header.Get("Range"); rng != "" {
		last := end - 1
		if n, _ := fmt.Sscanf(rng, "bytes=%d-%d", &from, &last); n == 0 || from >= end {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		end = min(end, last+1)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, end-1, len(object)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(end-from))
	if r.Header.Get("Range") != "" {
		w.WriteHeader(http.StatusPartialContent)
	}
	o.mu.Lock()
	o.sent += int64(end - from) // before who gets them can look
	o.mu.Unlock()
	_, _ = w.Write(object[from:end])
}

// Sent returns how many bytes of chunks were sent, or are being sent, but for those that an
// Answer sent.
func (o *Origin) Sent() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent
}

// Fetch implements [chunk.Source], by a look at what the origin has.
func (o *Origin) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	o.mu.Lock()
	object := o.objects[id]
	o.mu.Unlock()
	if object == nil {
		return 0, chunk.ErrNotFound
	}
	return copy(dst, object[min(off, int64(len(object))):]), nil
}

// Request implements [origin.Requester].
func (o *Origin) Request(ctx context.Context, id chunk.ID) (origin.Request, error) {
	return Remote{URL: o.URL}.Request(ctx, id)
}
