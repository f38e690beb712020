package zone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/internal/link"
	"github.com/rivuletfs/rivulet/tier"
)

// A Zone is the client of a zone's cache. All methods may be called by any number
// of goroutines. Close it when done.
type Zone struct {
	plan
	code   *coder
	places *placement
	nodes  []*node
	hedge  tier.Hedge

	usual    int           // bytes of the stripe of a usual chunk
	patience time.Duration // how long a request waits for its turn

	queue fillQueue
	counters

	ctx  context.Context // of fills
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // requests, reads and workers; Add under mu while not closed
}

var (
	_ chunk.Source = (*Zone)(nil)
	_ chunk.Reader = (*Zone)(nil)
)

// Open returns the client of the zone that c describes. It does not wait for
// nodes: one that cannot be reached is left out until it can.
func Open(c Config) (*Zone, error) {
	c, p, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	secure, err := trust(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("zone: %w", err)
	}
	z := &Zone{plan: p, hedge: tier.Hedge{Share: p.hedge}, patience: c.Timeout}
	z.usual = stripeHeader + p.payload(chunk.Size)
	var names []string
	seen := make(map[string]bool)
	for i, address := range c.Nodes {
		e, err := parseNode(address)
		if err == nil && seen[e.name] {
			err = fmt.Errorf("%s is there twice", e.name)
		}
		if err != nil {
			return nil, fmt.Errorf("zone: node %d: %w", i+1, err)
		}
		if e.login.Password == "" {
			e.login.User, e.login.Password = c.User, c.Password
		}
		seen[e.name] = true
		names = append(names, e.name)
		z.nodes = append(z.nodes, newNode(e, &c, secure))
	}
	z.places = newPlacement(p.shape, names, c.Copies)
	if z.code, err = newCoder(p.shape); err != nil {
		return nil, fmt.Errorf("zone: %w", err)
	}
	z.ctx, z.stop = context.WithCancel(chunk.WithPriority(context.Background(), chunk.Fill))
	z.queue.init(c.FillBytes)
	for range c.FillWorkers {
		z.work.Go(z.fillAll)
	}
	return z, nil
}

// trust returns how TLS is spoken, with the authorities in file besides the
// system's.
func trust(file string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(0)}
	if file == "" {
		return c, nil
	}
	var err error
	c.RootCAs, err = link.Authorities(file)
	return c, err
}

// Close ends all reads and fills, what waits included, and returns when nothing
// of them runs any more.
func (z *Zone) Close() error {
	z.mu.Lock()
	z.closed = true
	z.mu.Unlock()
	z.stop()
	z.queue.close()
	for _, n := range z.nodes {
		n.close()
	}
	z.work.Wait()
	z.hedge.Wait()
	return nil
}

// enter has Close wait for whoever called it, until that calls z.work.Done.
func (z *Zone) enter() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.closed {
		return errClosed
	}
	z.work.Add(1)
	return nil
}

// Fetch implements [chunk.Source]. It is ReadChunk: the whole chunk is fetched and
// checked whatever part is asked for.
func (z *Zone) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	return z.ReadChunk(ctx, id, dst, off)
}

// ReadChunk implements [chunk.Reader]. It is ErrNotFound if fewer stripes are there
// than a chunk needs; if that cannot be known, as nodes do not answer, it is
// ErrUnavailable, after twice the time of a request at most, and twice that if
// another copy is looked at first.
func (z *Zone) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read chunk %v: negative offset %d", id, off)
	}
	if err := ctx.Err(); err != nil || len(dst) == 0 {
		return 0, err
	}
	return z.read(ctx, request{id: id, dst: dst, off: off})
}

// Offer calls take with what may be the whole object of a chunk, good until take
// returns, for a taker with a door of its own: so it is checked once, and copied
// nowhere. Nodes that forge may have made it: a taker that says so by a
// *chunk.CorruptError is offered what other stripes make, which is checked before.
// Any other error of take's ends the read, and is returned as it is. Otherwise errors
// are those of ReadChunk.
func (z *Zone) Offer(ctx context.Context, id chunk.ID, take func(object []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if z.first == z.n {
		_, err := z.read(ctx, request{id: id, take: take})
		return err
	}
	b := objectBuffers.get() // two requests may race, and one of them be given
	defer objectBuffers.put(b)
	object := b.bytes(chunk.Size + chunk.Size/8) // enough for usual ones
	n, err := z.ReadChunk(ctx, id, object, 0)
	if err == nil && n == len(object) {
		object = b.bytes(chunk.MaxStoredSize)
		n, err = z.ReadChunk(ctx, id, object, 0)
	}
	if err != nil {
		return err
	}
	return take(object[:n])
}

// A request is what one read wants: a part of a chunk, or to have all of it taken.
type request struct {
	id   chunk.ID
	dst  []byte
	off  int64
	take func(object []byte) error // nil: into dst
}

// A refusal is an error of a taker's, with which a read ends.
type refusal struct{ error }

// read does what a request says, and counts it.
func (z *Zone) read(ctx context.Context, q request) (int, error) {
	if err := z.enter(); err != nil {
		return 0, fmt.Errorf("read chunk %v: %w", q.id, err)
	}
	defer z.work.Done()
	z.reads.Add(1)
	n, err := z.readAny(ctx, q)
	var r refusal
	switch {
	case err == nil:
		z.hits.Add(1)
	case errors.As(err, &r):
		z.hits.Add(1)
		err = r.error
	case errors.Is(err, chunk.ErrNotFound):
		z.misses.Add(1)
	default:
		z.failed.Add(1)
	}
	return n, err
}

// readAny reads the copy whose nodes have room, and if that is not the first and not
// there, the first, of which it is then made.
func (z *Zone) readAny(ctx context.Context, q request) (int, error) {
	c, nodes := z.choose(q.id)
	if c > 0 {
		z.spread.Add(1)
		n, err := z.readCopy(ctx, q, nodes, nil)
		if err == nil || ctx.Err() != nil || errors.As(err, new(refusal)) {
			return n, err
		}
		return z.readCopy(ctx, q, z.places.place(q.id, 0), nodes)
	}
	return z.readCopy(ctx, q, nodes, nil)
}

// choose returns which copy of a chunk to read first, and its nodes: the first one
// that does not lie on nodes with more than their share of the requests that this
// host has under way. Of each copy, as many nodes count as a chunk needs.
func (z *Zone) choose(id chunk.ID) (int, []int) {
	first := z.places.place(id, 0)
	if z.places.copies == 1 {
		return 0, first
	}
	total := 0
	for _, n := range z.nodes {
		total += int(n.load.Load())
	}
	bound := z.bound(total, len(z.nodes))
	for c, nodes := 0, first; ; nodes = z.places.place(id, c) {
		if z.roomy(nodes, bound) {
			return c, nodes
		}
		if c++; c == z.places.copies {
			return 0, first
		}
	}
}

// roomy reports whether as many of the nodes are below the bound as a chunk needs.
func (z *Zone) roomy(nodes []int, bound int) bool {
	free := 0
	for _, i := range nodes {
		if n := z.nodes[i]; int(n.load.Load()) < bound && !n.out.Load() {
			free++
		}
	}
	return free >= z.k
}

// readCopy reads the copy on nodes. If it is there, one is put on the nodes fill
// too, if any.
func (z *Zone) readCopy(ctx context.Context, q request, nodes, fill []int) (int, error) {
	r := &reading{z: z, id: q.id, nodes: nodes, fill: fill, taker: q.take}
	n, err := 0, error(nil)
	if z.first == z.n {
		n, err = r.read(ctx, z.all(), q.dst, q.off)
	} else {
		n, err = z.hedge.Race(ctx, r.one(0), r.one(1), q.id, q.dst, q.off)
	}
	if err != nil {
		r.fail()
	}
	return n, err
}

// one returns reads of stripe i alone, which may outlive the read that they are for.
func (r *reading) one(i int) tier.Next {
	return func(ctx context.Context, _ chunk.ID, dst []byte, off int64) (int, error) {
		if err := r.z.enter(); err != nil {
			return 0, err
		}
		defer r.z.work.Done()
		return r.read(ctx, 1<<i, dst, off)
	}
}
