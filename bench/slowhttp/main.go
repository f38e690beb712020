// Slowhttp serves the files of a directory over HTTP with byte ranges, as a far
// away store would: every request waits before it is answered.
//
//	slowhttp [-delay 5ms] DIR
//
// It listens on a free port of the loopback interface and prints "ready URL".
// GET /.stats answers at once with what was asked since the start (see package
// meter).
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
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
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("want one directory")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m := &meter.Meter{Delay: *delay}
	files := http.FileServer(http.Dir(flag.Arg(0)))
	mux := http.NewServeMux()
	mux.Handle("/.stats", m)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		defer m.End()
		if m.Begin(r.Context()) == nil {
			files.ServeHTTP(&countingWriter{w, m}, r)
		}
	})
	fmt.Printf("ready http://%s\n", listener.Addr())
	return http.Serve(listener, mux)
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
