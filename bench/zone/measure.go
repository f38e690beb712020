package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/faultproxy"
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/store/zone/zonetest"
)

const nodes = 5

// A condition is what happens to the first of the nodes.
type condition struct {
	name string
	slow time.Duration                   // more for each round trip
	harm func(p *zonetest.Process) error // once the zone is full
}

var conditions = []condition{
	{name: "all well"},
	{name: "one slow by 50 ms", slow: 50 * time.Millisecond},
	{name: "one dead", harm: (*zonetest.Process).Kill},
	{name: "one hung", harm: (*zonetest.Process).Freeze},
}

// A result is what a scheme does under a condition.
type result struct {
	condition
	scheme

	times    []time.Duration // of all reads, in order once all rounds are done
	rounds   [][]time.Duration
	failed   int // of them: left to the origin
	requests int64
	bytes    int64 // received
}

// A cluster is servers, some of them behind links.
type cluster struct {
	processes []*zonetest.Process
	links     []*faultproxy.Link
	urls      []string
}

func (c *cluster) close() {
	for _, l := range c.links {
		_ = l.Close()
	}
	for _, p := range c.processes {
		_ = p.Kill()
	}
}

// start starts n servers. The first one has so much more latency.
func start(n int, o *options, more time.Duration) (c *cluster, err error) {
	c = &cluster{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for i := range n {
		p, err := zonetest.StartProcess(zonetest.Redis)
		if err != nil {
			return c, err
		}
		c.processes = append(c.processes, p)
		latency := o.latency
		if i == 0 {
			latency += more
		}
		if latency == 0 {
			c.urls = append(c.urls, p.URL())
			continue
		}
		l, err := faultproxy.NewLink(p.Addr(), latency, o.bandwidth)
		if err != nil {
			return c, err
		}
		c.links = append(c.links, l)
		c.urls = append(c.urls, "redis://"+l.Addr())
	}
	return c, nil
}

// fill puts all objects.
func fill(z *zone.Zone, list []chunktest.Object) error {
	for _, o := range list {
		if err := z.Put(context.Background(), o.ID, o.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// measure does one round.
func (r *result) measure(o *options, list []chunktest.Object, seed uint64) (err error) {
	c, err := start(nodes, o, r.slow)
	if err != nil {
		return err
	}
	defer c.close()
	z, err := zone.Open(zone.Config{Nodes: c.urls, Scheme: r.scheme.scheme})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	if err := fill(z, list); err != nil {
		return err
	}
	warm(z, list)
	if r.harm != nil {
		if err := r.harm(c.processes[0]); err != nil {
			return err
		}
	}
	before := z.Stats()
	r.read(o, z, list, seed)
	after := z.Stats()
	for i := range after.Nodes {
		r.requests += after.Nodes[i].Requests - before.Nodes[i].Requests
		r.bytes += after.Nodes[i].Received - before.Nodes[i].Received
	}
	return nil
}

// warm makes the connections and lets the zone learn what is usual.
func warm(z *zone.Zone, list []chunktest.Object) {
	dst := make([]byte, len(list[0].Bytes))
	for range 2 {
		for _, o := range list {
			_, _ = z.ReadChunk(context.Background(), o.ID, dst, 0) // what fails, fails again when it counts
		}
	}
}

// buffers are what is read into: garbage would be measured too.
var buffers = sync.Pool{New: func() any { b := make([]byte, chunk.Size+64<<10); return &b }}

// read reads at random times.
func (r *result) read(o *options, z *zone.Zone, list []chunktest.Object, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex // guards times and failed
	var times []time.Duration
	var wait sync.WaitGroup
	due := time.Now()
	for range o.reads {
		due = due.Add(time.Duration(rng.ExpFloat64() / o.rate * float64(time.Second)))
		begin, object := due, &list[rng.IntN(len(list))]
		time.Sleep(time.Until(begin))
		wait.Go(func() {
			dst := buffers.Get().(*[]byte)
			_, err := z.ReadChunk(context.Background(), object.ID, (*dst)[:len(object.Bytes)], 0)
			took := time.Since(begin)
			buffers.Put(dst)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, took)
			if err != nil {
				r.failed++
			}
		})
	}
	wait.Wait()
	slices.Sort(times)
	r.rounds = append(r.rounds, times)
	r.times = append(r.times, times...)
	slices.Sort(r.times)
}

// quantile returns the time that a share q of a round's reads took at most: the
// median of the rounds, so that a slow minute of the machine counts once.
func (r *result) quantile(q float64) time.Duration {
	var list []time.Duration
	for _, times := range r.rounds {
		list = append(list, within(times, q))
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// within returns the time that a share q of times, which are in order, does not
// exceed.
func within(times []time.Duration, q float64) time.Duration {
	return times[min(len(times)-1, int(q*float64(len(times))))]
}
