// Faultproxy forwards to a server and misbehaves on the way (package
// internal/faultproxy).
//
//	faultproxy [-latency 30ms] [-bandwidth BYTES] [-fault KIND=CHANCE]... [-seed N] [-log FILE [-listen ADDR]] HOST:PORT
//
// With -fault or -log it is an HTTP proxy, else it forwards any TCP. It listens on
// a free port of the loopback interface, prints "ready HOST:PORT", and ends on
// SIGTERM or SIGINT. With -log it appends a line to FILE for each request when it
// comes: the time in seconds, the client's address, the method, the path, and the fault or "-".
//
// With -listen the HTTP proxy is at that address, and the latency and bandwidth
// are between it and the server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/internal/faultproxy"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "faultproxy:", err)
		os.Exit(1)
	}
}

func run() error {
	latency := flag.Duration("latency", 0, "of a round trip")
	bandwidth := flag.Int64("bandwidth", 0, "bytes per second in each direction; 0: any")
	seed := flag.Uint64("seed", 1, "of the faults")
	faults := faultproxy.Faults{}
	flag.Func("fault", "`KIND=CHANCE` of a fault, such as flip=0.05; can be given many times", faults.Set)
	listen := flag.String("listen", "", "`HOST:PORT` of the HTTP proxy")
	log := flag.String("log", "", "`file` that requests are written down in")
	flag.Parse()
	if *listen != "" && len(faults) == 0 && *log == "" {
		return errors.New("-listen is of an HTTP proxy: want -fault or -log")
	}
	if flag.NArg() != 1 {
		return errors.New("want one HOST:PORT")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *listen != "" {
		return listenServer(ctx, *listen, *log, flag.Arg(0), faults, *seed, *latency, *bandwidth)
	}
	addr := flag.Arg(0)
	if len(faults) > 0 || *log != "" {
		server, err := newServer("127.0.0.1:0", *log, addr, faults, *seed)
		if err != nil {
			return err
		}
		defer server.Close()
		addr = server.Addr()
	}
	link, err := faultproxy.NewLink(addr, *latency, *bandwidth)
	if err != nil {
		return err
	}
	defer link.Close()
	fmt.Printf("ready %s\n", link.Addr())
	<-ctx.Done()
	return nil
}

// listenServer serves at an address, with the link behind the proxy.
func listenServer(ctx context.Context, listen, log, target string, faults faultproxy.Faults, seed uint64, latency time.Duration, bandwidth int64) error {
	link, err := faultproxy.NewLink(target, latency, bandwidth)
	if err != nil {
		return err
	}
	defer link.Close()
	server, err := newServer(listen, log, link.Addr(), faults, seed)
	if err != nil {
		return err
	}
	defer server.Close()
	fmt.Printf("ready %s\n", server.Addr())
	<-ctx.Done()
	return nil
}

// newServer is an HTTP proxy that keeps a log, if log is a file's name. The log
// stays open until the process ends.
func newServer(listen, log, target string, faults faultproxy.Faults, seed uint64) (*faultproxy.Server, error) {
	server, err := faultproxy.ListenServer(listen, target, faults, seed)
	if err != nil || log == "" {
		return server, err
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	server.Observe(func(r faultproxy.Request) {
		fault := r.Fault
		if fault == "" {
			fault = "-"
		}
		fmt.Fprintf(f, "%.6f %s %s %s %s\n", float64(r.At.UnixMicro())/1e6, r.Client, r.Method, r.Path, fault)
	})
	return server, nil
}
