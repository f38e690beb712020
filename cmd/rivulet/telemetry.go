package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/internal/fdpass"
	"github.com/rivuletfs/rivulet/telemetry"
	"github.com/rivuletfs/rivulet/telemetry/slowread"
)

const (
	// listenPause is how long a process waits that could not listen for telemetry.
	listenPause = 5 * time.Second
	// flushTime bounds the sending of traces at the end of a process.
	flushTime = 3 * time.Second
)

// telemetryOptions are the flags of a process that is to be seen from outside.
type telemetryOptions struct {
	address  string // "": nobody listens
	profiles bool
	slow     time.Duration // 0: disk.DefaultSlow, and no log
}

// addFlags gives a process the flags that it has whatever it does.
func (o *telemetryOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.address, "telemetry", "", "where to answer for /metrics (Prometheus) and /healthz: unix:PATH, or tcp:HOST:PORT of this machine alone (default: nowhere)")
	f.BoolVar(&o.profiles, "pprof", false, "answer for /debug/pprof there, too")
}

// addSlowFlag gives a process that holds disks the flag for slow reads.
func (o *telemetryOptions) addSlowFlag(f *pflag.FlagSet) {
	f.DurationVar(&o.slow, "slow-read", 0, "log reads that take so long, and trace them where $OTEL_EXPORTER_OTLP_ENDPOINT says (default: trace those of 100ms, log none)")
}

// forward appends the flags that were given, as a process in another folder understands
// them.
func (o *telemetryOptions) forward(args []string) ([]string, error) {
	if o.address != "" {
		address, err := absoluteAddress(o.address)
		if err != nil {
			return nil, err
		}
		args = append(args, "--telemetry", address)
	}
	if o.profiles {
		args = append(args, "--pprof")
	}
	if o.slow != 0 {
		args = append(args, "--slow-read", o.slow.String())
	}
	return args, nil
}

// check finds mistakes in the flags.
func (o *telemetryOptions) check() error {
	kind, rest, _ := strings.Cut(o.address, ":")
	switch {
	case o.slow < 0:
		return usagef("--slow-read %v: want a time", o.slow)
	case o.address == "" && o.profiles:
		return usagef("--pprof: say where with --telemetry")
	case o.address == "", kind == "unix" && rest != "":
		return nil
	case kind != "tcp":
		return usagef("--telemetry %q: want unix:PATH or tcp:HOST:PORT", o.address)
	}
	h, port, err := net.SplitHostPort(rest)
	if err != nil || port == "" {
		return usagef("--telemetry %q: want unix:PATH or tcp:HOST:PORT", o.address)
	}
	if ip, err := netip.ParseAddr(h); h != "localhost" && (err != nil || !ip.IsLoopback()) {
		return usagef("--telemetry %q: it asks nobody who they are, so want an address of this machine alone, such as tcp:127.0.0.1:%s; put a server of yours before it for others", o.address, port)
	}
	return nil
}

// A watch is what makes a process seen from outside. Its owner closes it.
type watch struct {
	app     *app
	opt     telemetryOptions
	origins telemetry.Origins
	traces  *sdktrace.TracerProvider // nil: nobody wants any
	log     func(*disk.SlowRead)     // nil: likewise
	trace   func(*disk.SlowRead)     // nil: likewise

	collector prometheus.Collector // what newHost made; else the owner's

	cancel  context.CancelFunc // nil: nothing runs
	running sync.WaitGroup

	mu     sync.Mutex // guards what follows
	listen net.Listener
}

// watch returns what the flags and the environment ask for.
func (a *app) watch(ctx context.Context, o telemetryOptions) (*watch, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	w := &watch{app: a, opt: o}
	var err error
	if w.traces, err = slowread.Export(ctx, programVersion(), a.logger()); err != nil {
		return nil, usageError{err}
	}
	if w.traces != nil {
		w.trace = slowread.Trace(w.traces)
	}
	if o.slow > 0 {
		w.log = slowread.Log(a.logger())
	}
	return w, nil
}

// onSlow is what disks are to call for slow reads; nil if nobody wants to know.
func (w *watch) onSlow() func(*disk.SlowRead) {
	if w.log == nil {
		return w.trace
	}
	if w.trace == nil {
		return w.log
	}
	return func(r *disk.SlowRead) {
		w.log(r)
		w.trace(r)
	}
}

// begin has somebody answer for the process, on ln, or where the flags say if that is nil. It
// returns at once. That nobody can listen there is told, and tried again: disks do not
// wait for it, nor end.
func (w *watch) begin(ctx context.Context, ln net.Listener, unwell func() []string) {
	if w.opt.address == "" && ln == nil {
		return
	}
	ctx, w.cancel = context.WithCancel(ctx)
	if ln == nil {
		ln = w.open()
	}
	server := &telemetry.Server{Version: programVersion(), Collector: w.collector, Unwell: unwell, Profiles: w.opt.profiles}
	w.running.Go(func() {
		for ln == nil {
			select {
			case <-time.After(listenPause):
				ln = w.open()
			case <-ctx.Done():
				return
			}
		}
		w.mu.Lock()
		w.listen = ln
		w.mu.Unlock()
		if err := server.Serve(ctx, ln); err != nil {
			w.app.note("rivulet: %v", err)
		}
	})
}

// open listens where the flags say; nil if that failed, which is told.
func (w *watch) open() net.Listener {
	ln, err := nbd.Listen(w.opt.address)
	if path, ok := strings.CutPrefix(w.opt.address, "unix:"); err == nil && ok && path[0] != '@' {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		w.app.logger().LogAttrs(context.Background(), slog.LevelWarn, "telemetry is not offered yet", slog.Any("err", err), slog.Duration("again", listenPause))
		if ln != nil {
			_ = ln.Close()
		}
		return nil
	}
	if strings.HasSuffix(w.opt.address, ":0") {
		w.app.note("telemetry: http://%v", ln.Addr())
	}
	return ln
}

// descriptor returns one of the listening socket, for the next process; nil if there is
// none.
func (w *watch) descriptor() (*fdpass.File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch l := w.listen.(type) {
	case *net.UnixListener:
		return fdpass.Of(l)
	case *net.TCPListener:
		return fdpass.Of(l)
	}
	return nil, nil
}

// leave has the socket's file stay at the end of this process: another one listens.
func (w *watch) leave(passed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l, ok := w.listen.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(!passed)
	}
}

// close ends it all, and sends what traces are left.
func (w *watch) close() {
	if w.cancel != nil {
		w.cancel()
	}
	w.running.Wait()
	if w.traces == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	if err := w.traces.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		w.app.note("rivulet: traces: %v", err)
	}
}
