package zone

import (
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/internal/histogram"
	"github.com/rivuletfs/rivulet/tier"
)

// Stats is what a zone has done since it was opened.
type Stats struct {
	Reads  int64 // of chunks
	Hits   int64 // answered
	Misses int64 // fewer stripes were there than a chunk needs
	Failed int64 // too few nodes answered, or the caller left

	Rebuilt  int64 // hits in which parity stood in for a stripe
	Bad      int64 // stripes that were not what their key promises, forged ones included
	Forged   int64 // stripes whose checksum was right
	Spread   int64 // reads that turned to another copy because nodes were loaded
	Hedged   int64 // reads that asked a second replica early
	HedgeWon int64 // of them: the second one answered first
	Unhedged int64 // reads that were late when no second request could be paid for
	Repaired int64 // stripes put again that a read had missed
	Removed  int64 // stripes removed because no chunk could be made of them

	Fills     int64 // chunks put
	FillBytes int64 // of them, stored, without parity
	Dropped   int64 // fills and repairs for which there was no room
	Unfilled  int64 // chunks of which too few stripes could be put to read them
	Queued    int64 // bytes that wait to be put, now

	Nodes []NodeStats // in the order of the configuration
}

// NodeStats is what a node was asked and has answered.
type NodeStats struct {
	Name     string // HOST:PORT
	Requests int64  // sent: reads, writes and removals
	Hits     int64  // reads that brought a value
	Misses   int64
	Errors   int64 // refusals, broken connections, answers that are none
	Timeouts int64
	Busy     int64 // reads not sent, as too many were under way
	Skipped  int64 // requests not sent, as the node is left out
	Received int64 // bytes of values
	Sent     int64 // bytes of values
	InFlight int   // reads that run or wait, now
	Breaker  tier.BreakerStats
	Latency  Histogram // of answered requests
}

// A Histogram is how often which time was taken.
type Histogram = histogram.Counts

// counters are those of a zone.
type counters struct {
	reads, hits, misses, failed       atomic.Int64
	rebuilt, bad, forged, spread      atomic.Int64
	repaired, removed                 atomic.Int64
	fills, fillBytes, dropped, undone atomic.Int64
}

// nodeCounters are those of a node.
type nodeCounters struct {
	requests, hits, misses, errors, timeouts, busy, skipped, received, sent atomic.Int64
	latency                                                                 histogram.Histogram
}

// answered counts a request that was answered after d.
func (c *nodeCounters) answered(d time.Duration) { c.latency.Add(d, 1) }

// Stats returns the counters; those of one read may not all be there yet.
func (z *Zone) Stats() Stats {
	hedge := z.hedge.Stats()
	s := Stats{
		Reads: z.reads.Load(), Hits: z.hits.Load(), Misses: z.misses.Load(), Failed: z.failed.Load(),
		Rebuilt: z.rebuilt.Load(), Bad: z.bad.Load(), Forged: z.forged.Load(), Spread: z.spread.Load(),
		Hedged: hedge.Hedged, HedgeWon: hedge.Won, Unhedged: hedge.Denied, Repaired: z.repaired.Load(), Removed: z.removed.Load(),
		Fills: z.fills.Load(), FillBytes: z.fillBytes.Load(), Dropped: z.dropped.Load(), Unfilled: z.undone.Load(),
		Queued: z.queue.held(),
	}
	for _, n := range z.nodes {
		s.Nodes = append(s.Nodes, n.stats())
	}
	return s
}

func (n *node) stats() NodeStats {
	return NodeStats{
		Name: n.name, Requests: n.requests.Load(), Hits: n.hits.Load(), Misses: n.misses.Load(),
		Errors: n.errors.Load(), Timeouts: n.timeouts.Load(), Busy: n.busy.Load(), Skipped: n.skipped.Load(),
		Received: n.received.Load(), Sent: n.sent.Load(), InFlight: int(n.load.Load()), Breaker: n.breaker.Stats(),
		Latency: n.latency.Counts(),
	}
}
