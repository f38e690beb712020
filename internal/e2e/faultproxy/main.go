// Faultproxy forwards to a server and misbehaves on the way (package
// internal/faultproxy).
//
//	faultproxy [-latency 30ms] [-bandwidth BYTES] [-fault KIND=CHANCE]... [-seed N] HOST:PORT
//
// With -fault it is an HTTP proxy, else it forwards any TCP. It listens on a
// free port of the loopback interface, prints "ready HOST:PORT", and ends on
// SIGTERM or SIGINT.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

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
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("want one HOST:PORT")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	addr := flag.Arg(0)
	if len(faults) > 0 {
		server, err := faultproxy.NewServer(addr, faults, *seed)
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
