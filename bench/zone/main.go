// Zone measures how a zone's schemes read chunks from real Redis servers when all
// of them are well, when one is slow, dead or hung, and when many want one chunk.
//
//	zone [-reads N] [-rate READS/S] [-rounds N] [-chunks N] [-latency TIME [-bandwidth BYTES/S]] [-plot FILE] [-hot]
//
// Reads begin at random times at the rate given, whether or not the ones before
// have ended, and are timed from when they should have begun: a reader that waits
// for its answers would hide what a slow node does. The schemes take turns in each
// round.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/zone"
)

// A scheme is what is compared.
type scheme struct {
	name, colour string
	scheme       zone.Scheme
}

var schemes = []scheme{
	{"whole", "#1b7837", zone.Whole{}},
	{"2 replicas, hedged", "#762a83", zone.Replicas{}},
	{"4 of 5", "#d6604d", zone.Coded{K: 4, N: 5}},
}

// options are the flags.
type options struct {
	reads, rounds, chunks int
	rate                  float64
	latency               time.Duration
	bandwidth             int64
	plot                  string
	hot                   bool
}

func main() {
	var o options
	flag.IntVar(&o.reads, "reads", 2000, "reads of a scheme in a round")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds")
	flag.IntVar(&o.chunks, "chunks", 100, "chunks of 512 KiB in the zone")
	flag.Float64Var(&o.rate, "rate", 100, "reads that begin in a second")
	flag.DurationVar(&o.latency, "latency", 0, "of a round trip to each node; 0: the loopback interface's")
	flag.Int64Var(&o.bandwidth, "bandwidth", 0, "bytes a second from each node, with -latency; 0: any")
	flag.StringVar(&o.plot, "plot", "", "write a plot of the distributions, SVG, to this file")
	flag.BoolVar(&o.hot, "hot", false, "measure how a chunk that many want spreads instead")
	flag.Parse()
	measure := compare
	if o.hot {
		measure = spread
	}
	if err := measure(&o); err != nil {
		fmt.Fprintln(os.Stderr, "zone:", err)
		os.Exit(1)
	}
}

// objects returns chunks that do not compress.
func objects(n int) (list []chunktest.Object) {
	for i := range n {
		list = append(list, chunktest.Random(uint64(i), chunk.Size, chunk.FrameSize))
	}
	return list
}

func compare(o *options) error {
	list := objects(o.chunks)
	var results []*result
	for _, c := range conditions {
		for _, s := range schemes {
			results = append(results, &result{condition: c, scheme: s})
		}
	}
	for round := range o.rounds {
		for _, r := range results {
			if err := r.measure(o, list, uint64(round)); err != nil {
				return fmt.Errorf("%s, %s: %w", r.condition.name, r.scheme.name, err)
			}
		}
	}
	table(os.Stdout, results, o)
	if o.plot == "" {
		return nil
	}
	return writePlot(o.plot, results)
}
