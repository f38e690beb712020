// Slowhttp answers over HTTP as a far away store would: every request waits before it
// is answered, and all answers together have one bandwidth.
//
//	slowhttp [-delay 5ms] [-bandwidth N] DIR
//	slowhttp [-delay 5ms] [-bandwidth N] -to http://HOST:PORT
//
// It serves the files of a directory with byte ranges, or passes every request on to a
// server, an S3 server say, as it came. It listens on a free port of the loopback
// interface and prints "ready URL". GET /.stats answers at once with what was asked
// since the start (see package meter).
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"

	"github.com/rivuletfs/rivulet/bench/meter"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "slowhttp:", err)
		os.Exit(1)
	}
}

func run() error {
	delay := flag.Duration("delay", 5*time.Millisecond, "wait so long before each answer")
	bandwidth := flag.Int64("bandwidth", 0, "bytes of answers in a second; 0: no bound")
	to := flag.String("to", "", "URL of a server to pass requests on to")
	flag.Parse()
	behind, err := answers(*to, flag.Args())
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m := &meter.Meter{Delay: *delay, Bandwidth: *bandwidth}
	mux := http.NewServeMux()
	mux.Handle("/.stats", m)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		defer m.End()
		if m.Begin(r.Context()) == nil {
			behind.ServeHTTP(&countingWriter{w, m}, r)
		}
	})
	fmt.Printf("ready http://%s\n", listener.Addr())
	return http.Serve(listener, mux)
}

// answers returns what answers: the files of a directory, or another server.
func answers(to string, args []string) (http.Handler, error) {
	switch {
	case to == "" && len(args) == 1:
		return http.FileServer(http.Dir(args[0])), nil
	case to == "" || len(args) > 0:
		return nil, errors.New("want one directory, or -to URL")
	}
	server, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 256
	transport.DisableCompression = true
	return &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(server)
		r.Out.Host = r.In.Host // it is signed
	}}, nil
}

// A countingWriter counts a body's bytes as they are written.
type countingWriter struct {
	http.ResponseWriter
	meter *meter.Meter
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.meter.Add(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
