// Nbdload reads disks over NBD, many at once, and compares every byte with files
// that hold what has to be there.
//
//	nbdload -disk NAME=FILE... [-starts N] [-ranges N] [-for 20s] [-workers N] [-bound 10s] URI...
//
// The export of each URI is one of the names. A URI agent:///NAME?socket=PATH has the
// agent at that socket attach the image NAME of $RIVULET_STORE for each start, and
// detach it when it is done. Without -for it makes N starts, all
// at once: each connects to the next URI in turn and reads the ranges of its disk,
// which are the same for every start; each begins with another one. With -for, so many workers
// read ranges at random until the time is over.
//
// A connection that ends, or cannot be made, is made anew, and the read repeated:
// a read fails if it has no answer within -bound, or the server answers with an
// error. The first read that fails or has a wrong byte ends it all, with exit
// status 1. Else it prints a line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nbdload:", err)
		os.Exit(1)
	}
}

// A load is what the flags say.
type load struct {
	disks   map[string]*reference
	uris    []string
	starts  int
	workers int
	ranges  int
	length  time.Duration
	bound   time.Duration
	seed    uint64
}

func run() error {
	l := load{disks: make(map[string]*reference)}
	flag.IntVar(&l.starts, "starts", 1, "that are made at once")
	flag.IntVar(&l.ranges, "ranges", 64, "that a start reads")
	flag.DurationVar(&l.length, "for", 0, "read at random for so long")
	flag.IntVar(&l.workers, "workers", 8, "that read at random")
	flag.DurationVar(&l.bound, "bound", 30*time.Second, "within which a read has to be answered")
	flag.Uint64Var(&l.seed, "seed", 1, "of the ranges")
	flag.Func("disk", "`NAME=FILE` of what an export has to hold; can be given many times", l.addDisk)
	flag.Parse()
	l.uris = flag.Args()
	if len(l.uris) == 0 || len(l.disks) == 0 {
		return errors.New("want -disk NAME=FILE and URIs")
	}
	for _, uri := range l.uris {
		if _, err := l.disk(uri); err != nil {
			return err
		}
	}
	begin := time.Now()
	readers, err := l.read()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(summary(readers, time.Since(begin)))
}

func (l *load) addDisk(s string) error {
	name, file, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want NAME=FILE")
	}
	r, err := openReference(file)
	l.disks[name] = r
	return err
}

// disk returns what the export of uri has to hold.
func (l *load) disk(uri string) (*reference, error) {
	var name string
	if strings.HasPrefix(uri, "agent:") {
		image, _, err := splitAgent(uri)
		if err != nil {
			return nil, err
		}
		name = image
	} else {
		a, err := nbdclient.ParseURI(uri)
		if err != nil {
			return nil, err
		}
		name = a.Export
	}
	r := l.disks[name]
	if r == nil {
		return nil, fmt.Errorf("%s: no -disk %s=FILE", uri, name)
	}
	return r, nil
}

// read runs all readers at once.
func (l *load) read() ([]*reader, error) {
	n := l.starts
	if l.length > 0 {
		n = l.workers
	}
	g, ctx := errgroup.WithContext(context.Background())
	readers := make([]*reader, n)
	for i := range readers {
		r := &reader{uri: l.uris[i%len(l.uris)], bound: l.bound}
		r.disk, _ = l.disk(r.uri)
		readers[i] = r
		g.Go(func() error {
			if !strings.HasPrefix(r.uri, "agent:") {
				return l.run(ctx, i, r)
			}
			return attached(ctx, r.uri, i, func(uri string) error {
				r.uri = uri
				return l.run(ctx, i, r)
			})
		})
	}
	return readers, g.Wait()
}

// run is what reader i does.
func (l *load) run(ctx context.Context, i int, r *reader) error {
	defer r.close()
	if l.length == 0 {
		all := r.disk.ranges(rand.New(rand.NewPCG(l.seed, 0)), l.ranges)
		first := i % len(all)
		return r.start(ctx, append(all[first:], all[:first]...))
	}
	random := rand.New(rand.NewPCG(l.seed, uint64(i)+1))
	for end := time.Now().Add(l.length); time.Now().Before(end); {
		if err := r.start(ctx, r.disk.ranges(random, 1)); err != nil {
			return err
		}
	}
	return nil
}

// A result is what is printed.
type result struct {
	Readers    int     `json:"readers"`
	Reads      int     `json:"reads"`
	Bytes      int64   `json:"bytes"`
	Reconnects int     `json:"reconnects"`
	Seconds    float64 `json:"seconds"`
	MedianMs   float64 `json:"median_ms"`
	P99Ms      float64 `json:"p99_ms"`
	SlowestMs  float64 `json:"slowest_ms"`
}

func summary(readers []*reader, took time.Duration) result {
	res := result{Readers: len(readers), Seconds: took.Seconds()}
	var all []time.Duration
	for _, r := range readers {
		all = append(all, r.took...)
		res.Bytes += r.bytes
		res.Reconnects += r.reconnects
	}
	slices.Sort(all)
	at := func(share float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return all[int(share*float64(len(all)-1))].Seconds() * 1000
	}
	res.Reads, res.MedianMs, res.P99Ms, res.SlowestMs = len(all), at(0.5), at(0.99), at(1)
	return res
}

// A reader is one connection at a time to one export.
type reader struct {
	uri   string
	disk  *reference
	bound time.Duration

	client     *nbdclient.Client // nil: not connected
	got, want  []byte
	took       []time.Duration // of each read
	bytes      int64
	reconnects int
}

func (r *reader) close() {
	if r.client != nil {
		_ = r.client.Close()
		r.client = nil
	}
}

// start reads ranges, one after another.
func (r *reader) start(ctx context.Context, ranges []extent) error {
	for _, x := range ranges {
		begin := time.Now()
		if err := r.readInTime(ctx, x, begin.Add(r.bound)); err != nil {
			return fmt.Errorf("%s: %d bytes at %d: %w, after %v", r.uri, x.length, x.offset, err, time.Since(begin).Round(time.Millisecond))
		}
		r.took = append(r.took, time.Since(begin))
		r.bytes += x.length
		if err := r.compare(x); err != nil {
			return fmt.Errorf("%s: %w", r.uri, err)
		}
	}
	return nil
}

// readInTime reads x, over as many connections as it takes until deadline.
func (r *reader) readInTime(ctx context.Context, x extent, deadline time.Time) error {
	if int64(cap(r.got)) < x.length {
		r.got, r.want = make([]byte, x.length), make([]byte, x.length)
	}
	for {
		err := r.tryRead(ctx, r.got[:x.length], x.offset)
		late := time.Now().After(deadline)
		var answered nbdclient.Errno
		switch {
		case err == nil && late:
			return errors.New("read too late")
		case err == nil || late || errors.As(err, &answered):
			return err
		}
		r.close()
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryRead reads once.
func (r *reader) tryRead(ctx context.Context, p []byte, off int64) (err error) {
	if r.client == nil {
		d := nbdclient.Dialer{Timeout: r.bound}
		if r.client, err = d.Dial(ctx, r.uri); err != nil {
			r.client = nil
			return err
		}
		if len(r.took) > 0 {
			r.reconnects++
		}
	}
	_, err = r.client.ReadAt(p, off)
	return err
}

// compare checks what was read.
func (r *reader) compare(x extent) error {
	got, want := r.got[:x.length], r.want[:x.length]
	if _, err := r.disk.file.ReadAt(want, x.offset); err != nil {
		return err
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("wrong byte at %d: %#x, want %#x", x.offset+int64(i), got[i], want[i])
		}
	}
	return nil
}
