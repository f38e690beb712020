package telemetry_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/telemetry"
)

// readFile reads the file of the image over NBD.
func (s *site) readFile(t *testing.T) {
	t.Helper()
	c, err := nbdclient.Dial(t.Context(), s.uri)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	fsys, err := ext4.Open(c, c.Size())
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open("file")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, s.image) {
		t.Fatalf("%d bytes of the file, %v", len(got), err)
	}
}

// values returns what collectors give, by name and labels.
func values(t *testing.T, list ...prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	for _, c := range list {
		r.MustRegister(c)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got, given := make(map[string]float64), make(map[string]bool)
	for _, f := range families {
		given[f.GetName()] = true
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := strings.TrimPrefix(f.GetName(), "rivulet_") + "{" + strings.Join(labels, ",") + "}"
			switch {
			case m.GetHistogram() != nil:
				got[name] = float64(m.GetHistogram().GetSampleCount())
			case m.GetCounter() != nil:
				got[name] = m.GetCounter().GetValue()
			default:
				got[name] = m.GetGauge().GetValue()
			}
		}
	}
	for _, c := range list { // all that is described is given
		ch := make(chan *prometheus.Desc, 1000)
		c.Describe(ch)
		close(ch)
		for d := range ch {
			if name := nameOf.FindStringSubmatch(d.String())[1]; !given[name] {
				t.Errorf("%s is described and not given", name)
			}
		}
	}
	return got
}

var nameOf = regexp.MustCompile(`fqName: "([a-z0-9_]+)"`)

// TestValues reads an image twice, and wants numbers that agree with one another, and
// with the web server's.
func TestValues(t *testing.T) {
	s := newSite(t, 0, nil)
	s.readFile(t)
	s.readFile(t)
	s.origins.Alarm(generation.Alarm{Reason: generation.ReasonMissing})
	s.origins.Alarm(generation.Alarm{Reason: "something new"})
	// A fetch is counted after who waited for its frames has them. One whose download had
	// ended when it began to wait for it is a hit of the cache.
	told := func() int64 { return s.host.Stats().Tiers[chunk.Zone].Lacked + s.host.Stats().Disks.FromCache }
	for begun := time.Now(); told() < s.asked.Load() && time.Since(begun) < time.Minute; {
		time.Sleep(time.Millisecond)
	}
	got := values(t, &telemetry.Host{Host: s.host, Origins: &s.origins, Cache: s.client, NBD: s.nbd.Stats})
	daemon := values(t, &telemetry.Daemon{Server: s.daemon.Server, Zone: s.zone})
	chunks := float64(s.asked.Load())
	if chunks < 4 {
		t.Fatalf("%v chunks were asked for", chunks)
	}
	for name, want := range map[string]float64{
		"attachments{state=ready}":                        1,
		"attachments{state=waiting}":                      0,
		"read_errors_total{frontend=nbd,image=tree}":      0,
		"hung_reads_total{frontend=nbd,image=tree}":       0,
		"origin_requests_total{kind=chunk,outcome=ok}":    0, // the daemon has asked for them
		"tier_requests_total{outcome=corrupt,tier=cache}": 0,
		"cache_client_handed_total{}":                     chunks,
		"cache_client_fallbacks_total{}":                  0,
		"cache_client_held_chunks{}":                      chunks,
		"alarms_total{reason=missing}":                    1,
		"alarms_total{reason=other}":                      1,
		"alarms_total{reason=expired}":                    0,
		"limit_passed_total{limit=origin}":                0,
		"slow_reads_total{tier=none}":                     0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("host: %s is %v, want %v", name, v, want)
		}
	}
	for name, want := range map[string]float64{
		"cached_downloads_total{outcome=ok}":              chunks,
		"cached_download_duration_seconds{}":              chunks,
		"cached_deposits_total{}":                         chunks,
		"cached_chunks{}":                                 chunks,
		"cached_flights_total{}":                          chunks,
		"cached_leases_total{}":                           chunks,
		"cached_leases_expired_total{}":                   0,
		"cached_zone_lookups_total{outcome=miss}":         chunks,
		"cached_zone_lookup_duration_seconds{}":           chunks,
		"cached_zone_lookups_total{outcome=hit}":          0,
		"cached_corrupt_chunks_total{}":                   0,
		"limit_passed_total{limit=downloads}":             chunks,
		"limit_in_flight{limit=downloads}":                0,
		"cached_connections{}":                            1,
		"cached_max_bytes{}":                              1 << 30,
		"zone_reads_total{outcome=miss}":                  chunks,
		"cached_downloaded_bytes_total{}":                 daemon["cached_deposited_bytes_total{}"],
		"cached_damaged_chunks_total{}":                   0,
		"cached_connections_refused_total{}":              0,
		"cached_touches_total{}":                          daemon["cached_touches_total{}"],
		"zone_node_breaker_open{node=" + s.node + "}":     0,
		"zone_node_duration_seconds{node=" + s.node + "}": daemon["zone_node_duration_seconds{node="+s.node+"}"],
	} {
		if v, ok := daemon[name]; !ok || v != want {
			t.Errorf("daemon: %s is %v, want %v", name, v, want)
		}
	}
	for _, name := range []string{"tier_requests_total{outcome=had,tier=origin}", "tier_requests_total{outcome=lacked,tier=zone}"} {
		hits := float64(s.host.Stats().Disks.FromCache)
		if v := got[name]; v == 0 || v+hits < chunks { // several fetches may have waited for one download
			t.Errorf("host: %s is %v, with %v hits, want %v or more", name, v, hits, chunks)
		}
	}
	stats := s.nbd.Stats()
	for name, want := range map[string]float64{
		"nbd_requests_total{}":                          float64(stats.Requests),
		"read_bytes_total{frontend=nbd,image=tree}":     float64(stats.BytesRead),
		"reads_total{frontend=nbd,image=tree}":          float64(s.host.Stats().Disks.Reads),
		"read_duration_seconds{tier=origin}":            float64(s.host.Stats().Tiers[chunk.Origin].Reads.Total()),
		"origin_requests_total{kind=object,outcome=ok}": got["origin_requests_total{kind=object,outcome=ok}"],
	} {
		if v := got[name]; v == 0 || v != want {
			t.Errorf("host: %s is %v, want %v, and not 0", name, v, want)
		}
	}
	if v := got["read_bytes_total{frontend=nbd,image=tree}"]; v < 2*float64(len(s.image)) {
		t.Errorf("%v bytes were read, of %d twice", v, len(s.image))
	}
}

// TestServer asks as Prometheus and others do.
func TestServer(t *testing.T) {
	s := newSite(t, 0, nil)
	s.readFile(t)
	var unwell []string
	server := &telemetry.Server{
		Version: "v1.2.3", Collector: &telemetry.Daemon{Server: s.daemon.Server},
		Unwell: func() []string { return unwell },
	}
	ask := func(path string) (int, string) {
		t.Helper()
		h, err := server.Handler()
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := ask("/metrics"); code != http.StatusOK || !strings.Contains(body, `rivulet_build_info{goversion="go`) ||
		!strings.Contains(body, `version="v1.2.3"} 1`) || !strings.Contains(body, "\nprocess_open_fds ") || !strings.Contains(body, "\ngo_goroutines ") ||
		!strings.Contains(body, "\nrivulet_cached_chunks ") {
		t.Errorf("metrics: %d\n%s", code, body)
	}
	if code, body := ask("/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("health: %d %q", code, body)
	}
	unwell = []string{"one disk", "another"}
	if code, body := ask("/healthz"); code != http.StatusServiceUnavailable || body != "one disk\nanother\n" {
		t.Errorf("health: %d %q", code, body)
	}
	if code, _ := ask("/debug/pprof/cmdline"); code != http.StatusNotFound {
		t.Errorf("profiles that nobody asked for: %d", code)
	}
	server.Profiles = true
	if code, _ := ask("/debug/pprof/cmdline"); code != http.StatusOK {
		t.Errorf("profiles: %d", code)
	}
	if code, _ := ask("/"); code != http.StatusNotFound {
		t.Errorf("the root: %d", code)
	}
}
