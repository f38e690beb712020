package tier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/tier"
	"github.com/rivuletfs/rivulet/tier/tiertest"
)

// An origin gets slower as more is asked of it at once, and for half a minute is
// ten times slower anyway. It notes what is asked beyond what it allows.
type modelOrigin struct {
	objects tiertest.Objects
	trouble time.Time // when it begins

	mu       sync.Mutex // guards what follows
	inFlight int
	requests int
	tokens   float64 // of the rate that it allows
	last     time.Time
	exceeded int
	sent     map[string]bool // answers, by host and chunk
	twice    []string        // those sent again
}

// enter counts a request and returns how long it takes.
func (o *modelOrigin) enter() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	o.tokens = min(originBurst, o.tokens+now.Sub(o.last).Seconds()*originRate)
	o.last = now
	if o.tokens--; o.tokens < -1e-6 { // what is lost in rounding
		o.exceeded++
		o.tokens = 0
	}
	o.requests++
	o.inFlight++
	takes := 40 * time.Millisecond
	if late := now.Sub(o.trouble); late > 0 && late < 30*time.Second {
		takes *= 10
	}
	if load := float64(o.inFlight) / capacity; load > 1 {
		takes = time.Duration(float64(takes) * load * load)
	}
	return takes
}

// leave ends a request, which has sent an answer or not.
func (o *modelOrigin) leave(sent bool, to string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inFlight--
	if sent && o.sent[to] {
		o.twice = append(o.twice, to)
	}
	o.sent[to] = o.sent[to] || sent
}

// Fetch implements [chunk.Source].
func (o *modelOrigin) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	timer := time.NewTimer(o.enter())
	defer timer.Stop()
	host, _, _ := strings.Cut(tier.FlowOf(ctx), "/")
	select {
	case <-timer.C:
		// What comes when the last one has just left counts as not sent.
		o.leave(ctx.Err() == nil, host+" "+id.String())
		return o.objects.Fetch(ctx, id, dst, off)
	case <-ctx.Done():
		o.leave(false, "")
		return 0, ctx.Err()
	}
}

// A hostCache is a model of a host's: what was read once is there.
type hostCache struct {
	mu   sync.Mutex
	held tiertest.Objects
}

// Read implements [tier.Layer].
func (c *hostCache) Read(ctx context.Context, next tier.Next, id chunk.ID, dst []byte, off int64) (int, error) {
	c.mu.Lock()
	n, err := c.held.Fetch(ctx, id, dst, off)
	c.mu.Unlock()
	if !errors.Is(err, chunk.ErrNotFound) {
		return n, err
	}
	if n, err = next(ctx, id, dst, off); err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held[id] = bytes.Clone(dst[:n])
	}
	return n, err
}

// A host is what its agents read from: its cache, the zone's, the origin.
type host struct {
	chunk.Reader
	cache hostCache
	stack *tier.Stack
}

// A world is hosts, their zone's cache and the origin.
type world struct {
	out    removed
	origin *modelOrigin
	zone   *cache
	images [][]chunktest.Object
	hosts  []*host

	mu  sync.Mutex
	now *storm
}

// A storm is what came of many starts at once.
type storm struct {
	reads, failed int // of guests
	asked         int // reads of all kinds
	requests      int // that the origin saw
	longest       time.Duration
	slowest       time.Duration // start
}

// hits returns the share of reads that a cache or another read served.
func (s *storm) hits() float64 { return 1 - float64(s.requests)/float64(s.asked) }

func (s *storm) String() string {
	return fmt.Sprintf("%d reads of guests, %d failed, the longest %v; the slowest start %v; the origin saw %d requests for %d reads, hit ratio %.3f",
		s.reads, s.failed, s.longest, s.slowest, s.requests, s.asked, s.hits())
}

func newWorld(out removed) *world {
	now := time.Now()
	w := &world{out: out, zone: &cache{}, origin: &modelOrigin{
		objects: tiertest.Objects{}, sent: map[string]bool{},
		trouble: now.Add(5 * time.Second), last: now, tokens: originBurst,
	}}
	for i := range images {
		var list []chunktest.Object
		for k := range chunksOf {
			o := chunktest.Random(uint64(i*chunksOf+k), 20, chunk.FrameSize)
			w.origin.objects[o.ID] = o.Bytes
			list = append(list, o)
		}
		w.images = append(w.images, list)
	}
	for range hosts {
		w.hosts = append(w.hosts, w.newHost())
	}
	return w
}

// newHost puts a host's tiers together. Its limit is its share of what the
// origin bears.
func (w *world) newHost() *host {
	limit := &tier.Limit{
		Concurrent: capacity / hosts,
		Requests:   tier.Bucket{PerSecond: originRate / hosts, Burst: originBurst / hosts},
	}
	if w.out.bucket {
		limit.Requests = tier.Bucket{}
	}
	if w.out.concurrency {
		limit.Concurrent = 0
	}
	h := &host{cache: hostCache{held: tiertest.Objects{}}}
	zone := w.zone.tier(&tier.Breaker{}, &tier.Timeout{Min: 10 * time.Millisecond, Max: time.Second})
	h.stack = tier.NewStack(chunk.NewDoor(tier.Source(w.origin, limit, &tier.Timeout{})), zone)
	layers := []tier.Layer{&tier.Coalesce{}, &h.cache}
	if w.out.coalescing {
		layers = layers[1:]
	}
	h.Reader = tier.Reader(h.stack, layers...)
	return h
}

func (w *world) close() {
	for _, h := range w.hosts {
		h.stack.Close()
	}
}

// play starts all agents at once, and returns when all are through.
func (w *world) play(seed uint64) *storm {
	w.now = &storm{requests: -w.origin.requests}
	var wg sync.WaitGroup
	for i := range hosts * agentsOfHost {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		image := int(images * rng.Float64() * rng.Float64()) // some are popular
		wg.Go(func() { w.start(i, w.images[image]) })
	}
	wg.Wait()
	w.now.requests += w.origin.requests
	return w.now
}

// start is an agent's: a guest reads, a prefetch runs ahead of it, and the rest
// of the image is filled in from its end.
func (w *world) start(agent int, image []chunktest.Object) {
	at := w.hosts[agent%hosts]
	ctx := tier.WithFlow(context.Background(), fmt.Sprintf("%d/%d", agent%hosts, agent))
	guest, stop := context.WithTimeout(ctx, attached)
	defer stop()
	begun := time.Now()
	var reading, others sync.WaitGroup
	for r := range background {
		others.Go(func() {
			for i := r; i < 2*demanded && guest.Err() == nil; i += background {
				w.read(guest, at, &image[i], chunk.Prefetch)
			}
		})
		others.Go(func() {
			for i := len(image) - 1 - r; i >= 0 && guest.Err() == nil; i -= background {
				w.read(guest, at, &image[i], chunk.Fill)
			}
		})
	}
	for r := range guests {
		reading.Go(func() {
			for i := r; i < demanded; i += guests {
				w.read(ctx, at, &image[i], chunk.Demand)
			}
		})
	}
	reading.Wait()
	w.mu.Lock()
	w.now.slowest = max(w.now.slowest, time.Since(begun))
	w.mu.Unlock()
	others.Wait()
}

// read is a disk's: tried again until patience ends.
func (w *world) read(ctx context.Context, at *host, o *chunktest.Object, p chunk.Priority) {
	if !w.out.priority {
		ctx = chunk.WithPriority(ctx, p)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begun := time.Now()
	err := w.attempt(ctx, at, o)
	for err != nil && ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond)
		err = w.attempt(ctx, at, o)
	}
	if p != chunk.Demand {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.reads++
	w.now.longest = max(w.now.longest, time.Since(begun))
	if err != nil {
		w.now.failed++
	}
}

func (w *world) attempt(ctx context.Context, at *host, o *chunktest.Object) error {
	w.mu.Lock()
	w.now.asked++
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience/2)
	defer cancel()
	var buf [256]byte
	n, err := at.ReadChunk(ctx, o.ID, buf[:], 0)
	if err == nil && !bytes.Equal(buf[:n], o.Bytes) {
		err = errors.New("wrong bytes")
	}
	return err
}
