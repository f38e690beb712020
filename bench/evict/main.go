// Command evict compares eviction policies on traces, and prints Markdown for
// doc/benchmarks-eviction.md. Nothing in it is timed: equal arguments give equal
// figures on every machine.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/cache/evict/simulate"
)

// shares are the sizes of caches, in per cent of the bytes that a trace asks
// for.
var shares = []int{1, 2, 5, 10, 20, 50}

// A subject is a policy that is compared.
type subject struct {
	name   string
	colour string // in the plot; none: not in it
	open   func() evict.Policy
}

func lruk(o evict.Options) func() evict.Policy {
	return func() evict.Policy { return evict.NewLRUK(o) }
}

// with returns the defaults with a change.
func with(change func(*evict.Options)) func() evict.Policy {
	o := evict.Defaults()
	change(&o)
	return lruk(o)
}

var subjects = []subject{
	{"LRU", "#888", func() evict.Policy { return evict.NewLRU() }},
	{"SIEVE", "#1b9e77", func() evict.Policy { return evict.NewSIEVE() }},
	{"S3-FIFO", "#7570b3", func() evict.Policy { return evict.NewS3FIFO() }},
	{"LRU-2, every reference counts", "", lruk(evict.Options{K: 2, History: 50})},
	{"LRU-2, period of 10 s", "", lruk(evict.Options{K: 2, Correlated: 10 * time.Second, History: 50})},
	{"LRU-2", "#e6ab02", with(func(o *evict.Options) { o.K = 2 })},
	{"LRU-3", "#d95f02", with(func(o *evict.Options) { o.K = 3 })},
	{"LRU-4", "", with(func(o *evict.Options) { o.K = 4 })},
}

// variants are the default with one parameter changed.
var variants = []subject{
	{"default", "", with(func(*evict.Options) {})},
	{"correlated period 0", "", with(func(o *evict.Options) { o.Correlated = 0 })},
	{"correlated period 1 s", "", with(func(o *evict.Options) { o.Correlated = time.Second })},
	{"correlated period 1 min", "", with(func(o *evict.Options) { o.Correlated = time.Minute })},
	{"correlated period 10 min", "", with(func(o *evict.Options) { o.Correlated = 10 * time.Minute })},
	{"recent at most 10 %", "", with(func(o *evict.Options) { o.Recent = 10 })},
	{"recent at most 25 %", "", with(func(o *evict.Options) { o.Recent = 25 })},
	{"recent without limit", "", with(func(o *evict.Options) { o.Recent = 100 })},
	{"no history", "", with(func(o *evict.Options) { o.History = 0 })},
	{"history 100 %", "", with(func(o *evict.Options) { o.History = 100 })},
	{"history 400 %", "", with(func(o *evict.Options) { o.History = 400 })},
	{"history 400 %, retained 1 h", "", with(func(o *evict.Options) { o.History, o.Retained = 400, time.Hour })},
	{"K 2, no history", "", with(func(o *evict.Options) { o.K, o.History = 2, 0 })},
}

func main() {
	plot := flag.String("plot", "", "write an SVG of the hit ratios to this `file`")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: evict [-plot FILE]")
		os.Exit(2)
	}
	if err := run(os.Stdout, *plot); err != nil {
		fmt.Fprintln(os.Stderr, "evict:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, plot string) error {
	list := traces()
	best := measureAll(list, []subject{{name: "Belady"}})
	compared := measureAll(list, subjects)
	varied := measureAll(list, variants)
	writeTraces(w, list)
	writeRatios(w, list, compared, best[0])
	writeBytes(w, list, compared, best[0])
	writeMeans(w, "policy", subjects, compared, best[0])
	writeMeans(w, "LRU-3 with", variants, varied, best[0])
	if plot == "" {
		return nil
	}
	return writePlot(plot, list, compared, best[0])
}

// figures are results by trace and share.
type figures [][]simulate.Result

// measureAll runs every subject on every trace at every size. One without a
// policy is Belady's rule. The first quarter of a trace warms the cache.
func measureAll(list []*simulate.Trace, subjects []subject) []figures {
	out := make([]figures, len(subjects))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for s := range subjects {
		out[s] = make(figures, len(list))
		for t, trace := range list {
			out[s][t] = make([]simulate.Result, len(shares))
			group.Go(func() error {
				set, warm := trace.WorkingSet(), len(trace.Requests)/4
				for i, share := range shares {
					capacity := set * int64(share) / 100
					if subjects[s].open == nil {
						out[s][t][i] = simulate.Optimal(capacity, trace, warm)
					} else {
						out[s][t][i] = simulate.Run(subjects[s].open(), capacity, trace, warm)
					}
				}
				return nil
			})
		}
	}
	_ = group.Wait() // none fails
	return out
}
