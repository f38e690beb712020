package disk

import (
	"sync/atomic"

	"github.com/rivuletfs/rivulet/chunk"
)

// Stats counts what a disk did since Open.
type Stats struct {
	Reads        int64 `json:"reads"`         // calls of ReadAt
	Bytes        int64 `json:"bytes"`         // bytes that they returned
	Hits         int64 `json:"hits"`          // frames that were in memory
	Misses       int64 `json:"misses"`        // frames that were not
	Near         int64 `json:"near"`          // pieces of frames that were read from Options.Near instead
	Waits        int64 `json:"waits"`         // misses that joined a fetch already begun
	Fetches      int64 `json:"fetches"`       // fetches begun: chunks or, in SingleFrames, frames
	FromCache    int64 `json:"from_cache"`    // of them, those that were answered by the host's cache, as far as readers tell (chunk.Trace)
	FromZone     int64 `json:"from_zone"`     // by the zone's
	FromOrigin   int64 `json:"from_origin"`   // by the origin
	FetchedBytes int64 `json:"fetched_bytes"` // stored bytes that the reader returned
	Retries      int64 `json:"retries"`       // attempts after the first, of all fetches
	Prefetches   int64 `json:"prefetches"`    // fetches queued by Prefetch, and for reads that go on from frame to frame
	Dropped      int64 `json:"dropped"`       // fetches that Prefetch wanted and found the queue full
	Touched      int64 `json:"touched"`       // frames that were read at least once
	Ahead        int64 `json:"ahead"`         // frames that Fetch brought before they were read
	AheadUsed    int64 `json:"ahead_used"`    // of them, those that were read since
	AheadBytes   int64 `json:"ahead_bytes"`   // stored bytes that Fetch brought
	Errors       int64 `json:"errors"`        // reads that failed, but for reads of a closed disk
	Hung         int64 `json:"hung"`          // of them, those given up for want of time
}

// Add adds the counters of another disk.
func (s *Stats) Add(o Stats) {
	s.Reads, s.Bytes = s.Reads+o.Reads, s.Bytes+o.Bytes
	s.Hits, s.Misses, s.Near, s.Waits = s.Hits+o.Hits, s.Misses+o.Misses, s.Near+o.Near, s.Waits+o.Waits
	s.Fetches, s.FetchedBytes, s.Retries = s.Fetches+o.Fetches, s.FetchedBytes+o.FetchedBytes, s.Retries+o.Retries
	s.FromCache, s.FromZone, s.FromOrigin = s.FromCache+o.FromCache, s.FromZone+o.FromZone, s.FromOrigin+o.FromOrigin
	s.Prefetches, s.Dropped = s.Prefetches+o.Prefetches, s.Dropped+o.Dropped
	s.Touched, s.Ahead, s.AheadUsed, s.AheadBytes = s.Touched+o.Touched, s.Ahead+o.Ahead, s.AheadUsed+o.AheadUsed, s.AheadBytes+o.AheadBytes
	s.Errors, s.Hung = s.Errors+o.Errors, s.Hung+o.Hung
}

type counters struct {
	reads, bytes, hits, misses, waits atomic.Int64
	fetches, fetchedBytes, retries    atomic.Int64
	prefetches, dropped, errors, near atomic.Int64
	hung                              atomic.Int64
	touched, ahead, aheadUsed         atomic.Int64
	aheadBytes                        atomic.Int64
	from                              [chunk.Tiers]atomic.Int64 // fetches that succeeded
}

// Stats returns the counters. They are read one by one while others may rise.
func (d *Disk) Stats() Stats {
	c := &d.stats
	return Stats{
		Reads: c.reads.Load(), Bytes: c.bytes.Load(),
		Hits: c.hits.Load(), Misses: c.misses.Load(), Near: c.near.Load(), Waits: c.waits.Load(),
		FromCache: c.from[chunk.HostCache].Load(), FromZone: c.from[chunk.Zone].Load(), FromOrigin: c.from[chunk.Origin].Load(),
		Fetches: c.fetches.Load(), FetchedBytes: c.fetchedBytes.Load(), Retries: c.retries.Load(),
		Touched: c.touched.Load(), Ahead: c.ahead.Load(), AheadUsed: c.aheadUsed.Load(), AheadBytes: c.aheadBytes.Load(),
		Prefetches: c.prefetches.Load(), Dropped: c.dropped.Load(), Errors: c.errors.Load(), Hung: c.hung.Load(),
	}
}
