package telemetry_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
	"github.com/rivuletfs/rivulet/telemetry/slowread"
)

// A receiver takes traces by OTLP over HTTP, as collectors do.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests int
	spans    []*tracepb.Span
	about    map[string]string // what the spans' process says of itself
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{about: make(map[string]string)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.requests++; r.requests == 1 {
		w.WriteHeader(http.StatusServiceUnavailable) // so it is to come again
		return
	}
	z, err := gzip.NewReader(q.Body)
	if err != nil || q.URL.Path != "/v1/traces" || q.Method != http.MethodPost || q.Header.Get("X-Key") != "a b" || q.Header.Get("Content-Type") != "application/x-protobuf" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	body, err := io.ReadAll(z)
	var data tracepb.TracesData
	if err != nil || proto.Unmarshal(body, &data) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, of := range data.ResourceSpans {
		for _, a := range of.Resource.Attributes {
			r.about[a.Key] = a.Value.GetStringValue()
		}
		for _, scope := range of.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
}

// A span is what a test wants to know of one.
type span struct {
	*tracepb.Span
	attributes map[string]any
}

// children returns the spans under one; nil: the roots.
func (r *receiver) children(of *span) (list []span) {
	for _, s := range r.spans {
		if of == nil && len(s.ParentSpanId) == 0 || of != nil && bytes.Equal(s.ParentSpanId, of.SpanId) {
			c := span{s, make(map[string]any)}
			for _, a := range s.Attributes {
				if text := a.Value.GetStringValue(); text != "" {
					c.attributes[a.Key] = text
				} else if a.Value.GetBoolValue() {
					c.attributes[a.Key] = true
				} else {
					c.attributes[a.Key] = a.Value.GetIntValue()
				}
			}
			list = append(list, c)
		}
	}
	return list
}

// one returns the only span of a name among others.
func one(t *testing.T, list []span, name string) *span {
	t.Helper()
	var found []span
	for _, s := range list {
		if s.Name == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans %q among %d", len(found), name, len(list))
	}
	return &found[0]
}

// TestTrace follows one slow read: memory has nothing, the host cache asks the zone,
// which has nothing, and then the origin, which takes its time. Fast reads leave nothing.
func TestTrace(t *testing.T) {
	const slow, hold = 200 * time.Millisecond, 500 * time.Millisecond
	r := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	traces, err := slowread.Export(t.Context(), "v1.2.3", slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var told []*disk.SlowRead
	trace := slowread.Trace(traces)
	var s *site
	s = newSite(t, slow, func(q *disk.SlowRead) {
		mu.Lock()
		defer mu.Unlock()
		if s.hold.Load() > 0 { // else the machine was slow
			told = append(told, q)
			trace(q)
		}
	})
	c, err := nbdclient.Dial(t.Context(), s.uri)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s.hold.Store(int64(hold))
	b := make([]byte, 4096)
	if _, err := c.ReadAt(b, 1024); err != nil {
		t.Fatal(err)
	}
	s.hold.Store(0)
	if _, err := c.ReadAt(b, 1024); err != nil { // fast
		t.Fatal(err)
	}
	if err := traces.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.about["service.name"] != "rivulet" || r.about["service.version"] != "v1.2.3" || r.about["deployment.environment.name"] != "test" {
		t.Errorf("the process says of itself: %v", r.about)
	}
	if len(told) != 1 || r.requests != 2 {
		t.Fatalf("%d slow reads, %d uploads; want 1, and 2 since the first was refused", len(told), r.requests)
	}
	read := one(t, r.children(nil), "read")
	info := s.host.List()[0]
	if a := read.attributes; a["rivulet.attachment"] != info.ID || a["rivulet.disk"] != info.Digest || a["rivulet.offset"] != int64(1024) ||
		a["rivulet.length"] != int64(len(b)) || a["rivulet.tier"] != "origin" || read.Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("the read: %v, %v", a, read.Status)
	}
	if took := duration(read); took < hold || took != told[0].Wait {
		t.Errorf("the read took %v, told as %v", took, told[0].Wait)
	}
	id := told[0].Fetches[0].Chunk.String()
	under := r.children(read)
	if m := one(t, under, "memory"); duration(m) != 0 || m.attributes["rivulet.had"] == true {
		t.Errorf("memory: %v", m.attributes)
	}
	fetch := one(t, under, "fetch")
	if a := fetch.attributes; a["rivulet.chunk"] != id || a["rivulet.offset"] != int64(1024) || a["rivulet.tier"] != "origin" {
		t.Errorf("the fetch: %v", a)
	}
	var cache *span
	for _, c := range r.children(fetch) { // the header and a frame are asked for
		if c.Name != "cache" {
			t.Errorf("under the fetch: %s", c.Name)
		} else if len(r.children(&c)) > 0 {
			cache = &c
		}
	}
	if cache == nil {
		t.Fatal("the cache has asked nobody")
	}
	zone, origin := one(t, r.children(cache), "zone"), one(t, r.children(cache), "origin")
	if a := zone.attributes; a["rivulet.had"] == true || a["rivulet.chunk"] != id || zone.Status.GetMessage() != chunk.ErrNotFound.Error() {
		t.Errorf("the zone: %v, %v", a, zone.Status)
	}
	if a := origin.attributes; a["rivulet.had"] != true || a["rivulet.chunk"] != id || a["rivulet.length"] == int64(0) {
		t.Errorf("the origin: %v", a)
	}
	if zoneEnd := zone.EndTimeUnixNano; duration(origin) < hold-slow || origin.StartTimeUnixNano+uint64(time.Millisecond) < zoneEnd {
		t.Errorf("the origin took %v, from %v after the zone on", duration(origin), time.Duration(origin.StartTimeUnixNano-zoneEnd))
	}
	for _, s := range r.spans {
		if hex.EncodeToString(s.TraceId) != hex.EncodeToString(read.TraceId) || s.StartTimeUnixNano < read.StartTimeUnixNano {
			t.Errorf("span %s is of another trace, or began before the read", s.Name)
		}
	}
}

func duration(s *span) time.Duration {
	return time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano)
}

// TestLog writes the slow read as a line.
func TestLog(t *testing.T) {
	var out strings.Builder
	tell := slowread.Log(slog.New(slog.NewTextHandler(&out, nil)))
	begun := time.Now()
	tell(&disk.SlowRead{
		Disk: "sha256:12", Reader: "a1", Offset: 5, Length: 7, Begun: begun, Wait: 3 * time.Second, Tier: chunk.Origin, Err: disk.ErrTimedOut, More: 2,
		Fetches: []disk.SlowFetch{{Chunk: chunk.ID{1}, Demanded: begun}, {
			Chunk: chunk.ID{2}, Demanded: begun, Queued: time.Second,
			Steps: []chunk.Step{{Tier: chunk.HostCache, Begun: begun, Took: 2 * time.Second}, {Tier: chunk.Origin, Begun: begun, Took: time.Second}},
		}},
	})
	for _, want := range []string{
		`level=WARN msg="slow read" took=3s tier=origin attachment=a1 disk=sha256:12 offset=5 length=7 fetches=4 chunk=0200`,
		` queued=1s cache=2s origin=1s err="it took too long"` + "\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, out.String())
		}
	}
	for range 100 {
		tell(&disk.SlowRead{})
	}
	if n := strings.Count(out.String(), "\n"); n > 30 {
		t.Errorf("%d lines of 101 slow reads", n)
	}
}
