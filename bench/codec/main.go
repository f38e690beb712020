//go:build linux

// Codec measures what the chunk codec costs and saves, at every level that a
// salt domain may choose.
//
//	codec [-touched FILE] STORE-DIR
//
// It seals each distinct chunk of the images of a directory store, which must be
// published with --open, once raw and once with each level, and opens it again.
// It prints Markdown: CPU time and stored bytes over those of the images' layers,
// and with -touched, the file of pages that bench/sweep/touched.sh writes, what
// cold starts fetch and how long that takes over links of some speeds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/rivuletfs/rivulet/bench/touched"
	"github.com/rivuletfs/rivulet/store/dir"
)

func main() {
	starts := flag.String("touched", "", "`file` of the pages that starts read")
	flag.Parse()
	if err := run(context.Background(), flag.Arg(0), *starts); err != nil {
		fmt.Fprintln(os.Stderr, "codec:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, store, pages string) error {
	if store == "" {
		return errors.New("want a store's directory")
	}
	var starts []touched.Start
	var err error
	if pages != "" {
		if starts, err = touched.Read(pages); err != nil {
			return err
		}
	}
	place, err := dir.Open(store, false)
	if err != nil {
		return err
	}
	c, err := newCensus(place.Generation(1))
	if err != nil {
		return err
	}
	defer c.close()
	runtime.LockOSThread() // its CPU time is measured
	if err := c.images(ctx); err != nil {
		return err
	}
	c.printCosts(os.Stdout)
	return c.printStarts(ctx, os.Stdout, starts)
}
