package cachedclient

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
)

// keep is the keeper: it tells the daemon from time to time which chunks are
// used without asking for them, so that they are not taken for unused; gives up
// those that the daemon does not hold any more, whose space would not be free
// else; and closes what nobody uses.
func (c *Client) keep() {
	for sleep(c.done, c.config.sweep) {
		c.tidy()
	}
}

// tidy does what keep does, once.
func (c *Client) tidy() {
	used, rest := c.shelf.sweep(idleSweeps)
	for _, h := range rest {
		if h.unlinked() {
			c.shelf.drop(h.id, h)
		}
		c.shelf.put(h)
	}
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return // the files are good whatever became of the daemon
	}
	for len(used) > 0 {
		n := min(len(used), wire.MaxIDs)
		if !c.touch(l, used[:n]) {
			break
		}
		used = used[n:]
	}
}

// touch tells the daemon which chunks are used, and drops those that it does not
// have any more.
func (c *Client) touch(l *link, ids []chunk.ID) bool {
	ctx, cancel := context.WithTimeout(c.done, c.config.Silence)
	defer cancel()
	a, err := l.call(ctx, wire.Touch, func(b []byte) []byte { return wire.AppendIDs(b, ids...) })
	if err != nil {
		return false
	}
	defer a.close()
	gone, err := wire.ParseIDs(a.payload)
	if err != nil || a.kind != wire.Gone {
		return false
	}
	for _, id := range gone {
		c.shelf.drop(id, nil)
	}
	return true
}

// counters are what a client counts.
type counters struct {
	hits, asks, fallbacks, handed, brought, damaged, connects, losses atomic.Int64
}

// Stats is what a client has done so far, and what it holds.
type Stats struct {
	Hits      int64 // reads of chunks that were held
	Asks      int64 // questions to the daemon
	Fallbacks int64 // reads of the origin because the daemon was of no help
	Handed    int64 // requests that the daemon was given
	Brought   int64 // chunks read from the origin for everybody
	Damaged   int64 // files that turned out damaged
	Connects  int64
	Losses    int64 // connections that ended
	Held      int   // chunks held, each with a descriptor
}

// Stats returns the counters, each as it is at some moment of the call.
func (c *Client) Stats() Stats {
	s := &c.stats
	return Stats{
		Hits: s.hits.Load(), Asks: s.asks.Load(), Fallbacks: s.fallbacks.Load(), Handed: s.handed.Load(),
		Brought: s.brought.Load(), Damaged: s.damaged.Load(), Connects: s.connects.Load(), Losses: s.losses.Load(),
		Held: c.shelf.len(),
	}
}

// A Daemon tells of the daemon that a client speaks to.
type Daemon struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"`
}

// About asks the daemon what it is. One that is older than this question ends the
// connection, which is an error.
func (c *Client) About(ctx context.Context) (Daemon, error) {
	b, err := c.do(ctx, "about the host cache", wire.About, wire.Self, nil)
	if err != nil {
		return Daemon{}, err
	}
	d, err := wire.ParseDaemon(b)
	if err != nil {
		return Daemon{}, err
	}
	return Daemon{d.Version, int(d.Process), time.Unix(int64(d.Since), 0).UTC()}, nil
}

// Ping reports, by a nil error, that the daemon answers within the time of ctx.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.tell(ctx, wire.Ping, nil)
	return err
}
