package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/zone"
)

const (
	hotNodes   = 15
	hotReaders = 64
	hotTime    = 4 * time.Second
)

// spread has many readers want the same few chunks of a zone of many nodes, each
// of whose links is narrow: with all copies and with one alone.
func spread(o *options) error {
	o.latency, o.bandwidth = time.Millisecond, 10<<20
	list := objects(o.chunks)
	fmt.Fprintf(os.Stdout, "%d readers, %d nodes behind links of %v and %d MiB/s each, 4 of 5; chunk n of %d is read in proportion to 1/n^1.2.\n\n",
		hotReaders, hotNodes, o.latency, o.bandwidth>>20, o.chunks)
	fmt.Fprintf(os.Stdout, "| copies | reads / s | median | p99 | busiest node / mean | puts of copies |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	for _, copies := range []int{1, zone.Copies} {
		var h hotResult
		for range o.rounds {
			if err := h.measure(o, list, copies); err != nil {
				return err
			}
		}
		slices.Sort(h.times)
		fmt.Fprintf(os.Stdout, "| at most %d | %.0f | %s | %s | %.2f | %d |\n", copies, float64(len(h.times))/(hotTime.Seconds()*float64(o.rounds)),
			millis(h.times[len(h.times)/2]), millis(h.times[len(h.times)*99/100]), h.skew/float64(o.rounds), h.copies)
	}
	return nil
}

// A hotResult is what came of it.
type hotResult struct {
	times  []time.Duration
	skew   float64 // sum of the rounds'
	copies int64   // stripes put on other nodes
}

func (h *hotResult) measure(o *options, list []chunktest.Object, copies int) (err error) {
	c, err := start(hotNodes, o, 0)
	if err != nil {
		return err
	}
	defer c.close()
	z, err := zone.Open(zone.Config{Nodes: c.urls, Scheme: zone.Coded{K: 4, N: 5}, Copies: copies, Timeout: 10 * time.Second, MinTimeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	if err := fill(z, list); err != nil {
		return err
	}
	before := z.Stats()
	var mu sync.Mutex
	var wait sync.WaitGroup
	var failed atomic.Pointer[error]
	end := time.Now().Add(hotTime)
	for g := range hotReaders {
		wait.Go(func() {
			zipf := rand.NewZipf(rand.New(rand.NewPCG(uint64(g), 2)), 1.2, 1, uint64(len(list)-1))
			dst := make([]byte, len(list[0].Bytes))
			for begun := time.Now(); begun.Before(end); begun = time.Now() {
				if _, err := z.ReadChunk(context.Background(), list[zipf.Uint64()].ID, dst, 0); err != nil {
					failed.Store(&err)
				}
				mu.Lock()
				h.times = append(h.times, time.Since(begun))
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	after := z.Stats()
	most, all := int64(0), int64(0)
	for i := range after.Nodes {
		n := after.Nodes[i].Hits - before.Nodes[i].Hits
		most, all = max(most, n), all+n
	}
	h.skew += float64(most) * hotNodes / float64(all)
	h.copies += after.Repaired - before.Repaired
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}
