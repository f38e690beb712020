package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict/simulate"
)

// descriptors is what a client holds open: few, so that the daemon is asked.
const descriptors = 16

// churnTime is after how long as many chunks as there are in use have gone out of
// use, if the soak lasted so long.
const churnTime = 2 * time.Hour

// traffic reads chunks.
type traffic struct {
	origin  *origins
	clients []*cachedclient.Client
	rate    float64 // of all clients
	seed    uint64
	begin   time.Time
	ranks   simulate.Ranks

	reads, slow atomic.Int64
	slowest     atomic.Int64 // nanoseconds

	mu       sync.Mutex
	rng      *rand.Rand // makes chunks
	inUsed   []int32    // chunk of each rank
	renewed  int
	requests []simulate.Request
	calm     int // requests before the first fault; 0: there was none yet
	fetched  []fetched
}

// fetched is how many requests the origin had when clients had made so many.
type fetched struct{ reads, fetches int64 }

func newTraffic(o *options, org *origins) *traffic {
	t := &traffic{origin: org, rate: o.rate, seed: o.seed, rng: rand.New(rand.NewPCG(o.seed, 0)), begin: time.Now(), ranks: simulate.NewRanks(o.chunks, o.skew)}
	for range o.chunks {
		t.inUsed = append(t.inUsed, org.make(t.rng))
	}
	for range o.clients {
		t.clients = append(t.clients, nil)
	}
	return t
}

// inUse returns what the chunks in use count against a cache's size.
func (t *traffic) inUse() (bytes int64) {
	for _, n := range t.inUsed {
		bytes += t.origin.piece(n).cost
	}
	return bytes
}

func (t *traffic) connect(socket string) {
	for i := range t.clients {
		t.clients[i] = cachedclient.New(cachedclient.Config{Socket: socket, Descriptors: descriptors})
	}
	t.begin = time.Now()
}

func (t *traffic) close() {
	for _, c := range t.clients {
		c.Close()
	}
}

// endCalm says that faults begin.
func (t *traffic) endCalm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calm = len(t.requests)
}

// next chooses a chunk and writes down that it is asked for.
func (t *traffic) next(rng *rand.Rand) piece {
	rank := t.ranks.Draw(rng)
	t.mu.Lock()
	defer t.mu.Unlock()
	at := time.Since(t.begin)
	for due := int(at.Seconds() / churnTime.Seconds() * float64(len(t.inUsed))); t.renewed < due; t.renewed++ {
		t.inUsed[t.rng.IntN(len(t.inUsed))] = t.origin.make(t.rng)
	}
	n := t.inUsed[rank]
	t.requests = append(t.requests, simulate.Request{At: at, Chunk: n})
	if len(t.requests)%1000 == 0 {
		t.fetched = append(t.fetched, fetched{int64(len(t.requests)), t.origin.requests.Load()})
	}
	return t.origin.piece(n)
}

// read is a client: it reads frames at its share of the rate until ctx ends.
func (t *traffic) read(ctx context.Context, i int) error {
	rng := rand.New(rand.NewPCG(t.seed, uint64(i)+1))
	r := t.clients[i].Reader(chunk.NewDoor(t.origin), t.origin)
	buf := make([]byte, frameSize)
	pause := float64(len(t.clients)) / t.rate * float64(time.Second)
	for at := time.Now(); ; {
		at = at.Add(time.Duration(rng.ExpFloat64() * pause))
		select {
		case <-time.After(time.Until(at)):
		case <-ctx.Done():
			return nil
		}
		p := t.next(rng)
		frame := rng.IntN(len(p.header.Frames))
		begin := time.Now()
		n, err := r.ReadChunk(context.WithoutCancel(ctx), p.id, buf, p.header.StoredSize()-int64(p.size)+int64(frame)*frameSize)
		switch {
		case err != nil:
			return fmt.Errorf("read %v: %w", p.id, err)
		case n != frameSize || sha256.Sum256(buf) != p.header.Frames[frame].Sum:
			return errors.New("read " + p.id.String() + ": other bytes")
		}
		took := time.Since(begin)
		t.reads.Add(1)
		if took > time.Second {
			t.slow.Add(1)
		}
		for old := t.slowest.Load(); int64(took) > old && !t.slowest.CompareAndSwap(old, int64(took)); old = t.slowest.Load() {
		}
	}
}

// hitRatios returns the share of requests of the calm time, the first ones left out,
// that did not reach the origin, and that which the simulator predicts.
func (t *traffic) hitRatios(run func(trace *simulate.Trace, warm int) simulate.Result) (measured, predicted float64, requests int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := func(n int) fetched {
		i, _ := slices.BinarySearchFunc(t.fetched, int64(n), func(f fetched, n int64) int { return int(f.reads - n) })
		return t.fetched[min(i, len(t.fetched)-1)]
	}
	if len(t.fetched) == 0 {
		return 0, 0, 0
	}
	from, to := at(int(warm*float64(t.calm))), at(t.calm-1000)
	trace := &simulate.Trace{Requests: t.requests[:to.reads]}
	for n := range t.origin.pieces {
		trace.Costs = append(trace.Costs, t.origin.piece(int32(n)).cost)
	}
	if requests = int(to.reads - from.reads); requests <= 0 {
		return 0, 0, 0
	}
	measured = 1 - float64(to.fetches-from.fetches)/float64(requests)
	return measured, run(trace, int(from.reads)).HitRatio(), requests
}
