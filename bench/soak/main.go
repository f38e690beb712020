// Soak keeps a host cache busy for a long time and looks whether it stays as it
// was.
//
//	soak [-for 1h] [-rate 300] [-skew 0.9] [-chunks 4000] [-share 0.25] [-zone URL] [-seed N] RIVULET
//
// It starts RIVULET cached over an empty folder, and reads through it, by several
// clients, frames of chunks of its own origin, each checked by its SHA-256. Which
// chunk is asked for follows Zipf's law; all the time chunks go out of use and new
// ones take their places. The cache has room for a share of the chunks in use. In
// the first 60 per cent of the time nothing else happens: then the hit ratio, from
// what reached the origin, is compared with what store/cache/evict/simulate says of
// the very requests. After that the daemon is killed by -9, or frozen, every 10 to
// 20 seconds.
//
// It prints what was used every half minute and then a summary, and ends with
// status 1 if a read failed, the hit ratio is off by more than 2 per cent, or the
// daemon's memory grew.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// options are the flags.
type options struct {
	program, zone   string
	length          time.Duration
	rate            float64
	skew, share     float64
	chunks, clients int
	seed            uint64
}

// quiet is the share of the time before the first fault, and warm that of the
// quiet time's requests that the hit ratio leaves out.
const (
	quiet = 0.6
	warm  = 0.25
)

func main() {
	var o options
	flag.DurationVar(&o.length, "for", time.Hour, "how long")
	flag.Float64Var(&o.rate, "rate", 300, "reads in a second")
	flag.Float64Var(&o.skew, "skew", 0.9, "of Zipf's law")
	flag.Float64Var(&o.share, "share", 0.25, "of the chunks in use that there is room for")
	flag.IntVar(&o.chunks, "chunks", 4000, "in use at a time")
	flag.IntVar(&o.clients, "clients", 8, "that read")
	flag.StringVar(&o.zone, "zone", "", "zone of the daemon")
	flag.Uint64Var(&o.seed, "seed", 1, "of it all")
	flag.Parse()
	o.program = flag.Arg(0)
	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(o *options) (err error) {
	if o.program == "" || o.chunks < 10 || o.clients < 1 || !(o.rate > 0) {
		return errors.New("want the program rivulet, chunks, clients and a rate")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	org, err := newOrigin()
	if err != nil {
		return err
	}
	defer org.close()
	t := newTraffic(o, org)
	d := &daemon{program: o.program, dir: dir, zone: o.zone, size: int64(o.share * float64(t.inUse()))}
	if err := d.start(); err != nil {
		return err
	}
	defer d.kill()
	t.connect(d.socket())
	defer t.close()
	w := watch{daemon: d, traffic: t, begin: t.begin}
	calm := time.Duration(quiet * float64(o.length))
	g, gctx := errgroup.WithContext(ctx)
	gctx, cancel := context.WithTimeout(gctx, o.length)
	defer cancel()
	for i := range o.clients {
		g.Go(func() error { return t.read(gctx, i) })
	}
	g.Go(func() error { return w.run(gctx) })
	g.Go(func() error {
		select {
		case <-time.After(calm):
		case <-gctx.Done():
			return nil
		}
		t.endCalm()
		return d.trouble(gctx, rand.New(rand.NewPCG(o.seed, 99)))
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return w.report(o, calm)
}
