package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// maxScrapes is how many scrapes are answered at a time; more get a 503.
	maxScrapes = 4
	// scrapeTime bounds one.
	scrapeTime = 10 * time.Second
	// endTime is how long requests under way have once the server ends.
	endTime = time.Second
)

// A Server answers for one process:
//
//	GET /metrics       its metrics, for Prometheus
//	GET /healthz       200 "ok", or 503 and what is not well, a line each
//	GET /debug/pprof/  profiles, if Profiles says so
//
// It asks nobody who they are: listen where only those who may know reach it.
type Server struct {
	Version   string               // of the program
	Collector prometheus.Collector // of the process: a Host or a Daemon
	Unwell    func() []string      // what is not well; nil: nothing ever is
	// Profiles offers profiles. They show what a process does, and cost it time.
	Profiles bool
}

// The metrics of every process, beside those of the library (go_…, process_…).
var (
	processSet set

	buildInfo = processSet.gauge("build_info", "1, with the version of the program and that of Go.", "version", "goversion")
)

// process collects those.
type process struct{ version string }

func (process) Describe(ch chan<- *prometheus.Desc) { processSet.describe(ch) }

func (p process) Collect(ch chan<- prometheus.Metric) {
	sink(ch).put(buildInfo, 1, p.version, runtime.Version())
}

// registry returns all metrics of the process.
func (s *Server) registry() (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		process{s.Version}, s.Collector,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return r, nil
}

// Handler returns the server's answers.
func (s *Server) Handler() (http.Handler, error) {
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTime,
	}))
	mux.HandleFunc("GET /healthz", s.health)
	if s.Profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux, nil
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	var unwell []string
	if s.Unwell != nil {
		unwell = s.Unwell()
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if len(unwell) == 0 {
		unwell = []string{"ok"}
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	for _, line := range unwell {
		_, _ = fmt.Fprintln(w, line) // whoever asked may have gone
	}
}

// Serve answers on ln, which it closes, until ctx is done; then requests under way have
// a second to end.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	h, err := s.Handler()
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		return fmt.Errorf("telemetry: %w", err)
	case <-ctx.Done():
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	if srv.Shutdown(finish) != nil {
		_ = srv.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("telemetry: %w", err)
	}
	return nil
}
