package main

import (
	"strconv"

	"github.com/spf13/pflag"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/tier"
)

// What a process asks of a store at most, unless told otherwise.
const (
	// originReads is reads at once, as many as a store has connections: then
	// they wait where guests go before prefetches, and disks take turns.
	originReads = 64
	// originRequests is reads that begin in a second, of a far store: a few
	// Gbit/s of whole chunks, and a third of what one prefix of S3 bears.
	originRequests = 2000
)

// originLimit is the load on a store that flags allow.
type originLimit struct {
	requests, rate string // a second; "": the default
}

func (o *originLimit) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.requests, "origin-requests", "", "chunks to ask the store for in a second, at most; 0: no bound (default: 2000, of a directory no bound)")
	f.StringVar(&o.rate, "origin-rate", "", "bytes to ask the store for in a second, at most; 0: no bound (default: no bound)")
}

// forward appends the flags that were given.
func (o *originLimit) forward(args []string) []string {
	if o.requests != "" {
		args = append(args, "--origin-requests", o.requests)
	}
	if o.rate != "" {
		args = append(args, "--origin-rate", o.rate)
	}
	return args
}

// parse returns the bound, of a store that is near or far.
func (o *originLimit) parse(near bool) (*tier.Limit, error) {
	l := &tier.Limit{Concurrent: originReads}
	if !near {
		l.Requests.PerSecond = originRequests
	}
	if o.requests != "" {
		n, err := strconv.ParseUint(o.requests, 10, 31)
		if err != nil {
			return nil, usagef("--origin-requests %q: want a number of requests in a second, 0 for no bound", o.requests)
		}
		l.Requests.PerSecond = float64(n)
	}
	if o.rate != "" {
		n, err := parseSize(o.rate)
		if err != nil {
			return nil, usagef("--origin-rate: %w", err)
		}
		l.Bytes.PerSecond = float64(n)
	}
	return l, nil
}

// share returns what puts the bound before one store, near or far, for one disk of
// several, which share it.
func (o *originLimit) share(near bool) (func(src chunk.Source, disk string) chunk.Source, error) {
	limit, err := o.parse(near)
	if err != nil {
		return nil, err
	}
	return boundBy(limit), nil
}

// boundBy is share for a bound that is there.
func boundBy(limit *tier.Limit) func(src chunk.Source, disk string) chunk.Source {
	return func(src chunk.Source, disk string) chunk.Source {
		return tier.Source(src, tier.Flow(disk), limit)
	}
}
