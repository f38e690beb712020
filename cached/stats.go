package cached

import (
	"sync/atomic"

	"github.com/rivuletfs/rivulet/internal/histogram"
	"github.com/rivuletfs/rivulet/store/cache"
	"github.com/rivuletfs/rivulet/tier"
)

// counters are what a server counts.
type counters struct {
	connections, refused, requests                 atomic.Int64
	hits, misses, parts, flights, waits, timeouts  atomic.Int64
	leases, expired, deposits, complaints, touches atomic.Int64
	downloads, failedDownloads, downloadedBytes    atomic.Int64
	zoneHits, zoneMisses, corrupt                  atomic.Int64
	look, download                                 histogram.Histogram
	downloadEnds                                   [tier.Failed + 1]atomic.Int64
}

// A Histogram is how often which time was taken.
type Histogram = histogram.Counts

// Stats is what a server has done since it was made, and what it does now.
type Stats struct {
	Connections int64 // clients at present
	Refused     int64 // clients that were not let in
	Requests    int64

	Hits     int64 // answered at once
	Misses   int64 // requests that were told to read elsewhere
	Parts    int64 // answered before the chunk was whole
	Flights  int64 // chunks that were to be had from somewhere
	Waits    int64 // requests that joined a flight
	Timeouts int64 // of them, those that waited for too long

	Leases     int64 // given out
	Expired    int64 // not used in time
	Deposits   int64 // chunks that clients brought
	Complaints int64 // chunks that clients found damaged
	Touches    int64 // uses of chunks by descriptors that clients had

	Downloads       int64 // begun
	FailedDownloads int64
	DownloadedBytes int64
	ZoneHits        int64
	ZoneMisses      int64
	Corrupt         int64 // chunks that the door refused: of downloads, the zone and clients

	DownloadEnds [tier.Failed + 1]int64 // downloads begun and ended, by their tier.Class
	ZoneTime     Histogram              // of looks into the zone
	DownloadTime Histogram              // of downloads, without the wait in line

	DownloadLimit tier.LimitStats // downloads under way, and in line
	ZoneLimit     tier.LimitStats // looks

	Cache cache.Stats
}

// Stats returns the counters, each as it is at some moment of the call.
func (s *Server) Stats() Stats {
	c := &s.stats
	var ends [tier.Failed + 1]int64
	for i := range ends {
		ends[i] = c.downloadEnds[i].Load()
	}
	return Stats{
		Connections: c.connections.Load(), Refused: c.refused.Load(), Requests: c.requests.Load(),
		Hits: c.hits.Load(), Misses: c.misses.Load(), Parts: c.parts.Load(), Flights: c.flights.Load(),
		Waits: c.waits.Load(), Timeouts: c.timeouts.Load(),
		Leases: c.leases.Load(), Expired: c.expired.Load(), Deposits: c.deposits.Load(), Complaints: c.complaints.Load(), Touches: c.touches.Load(),
		Downloads: c.downloads.Load(), FailedDownloads: c.failedDownloads.Load(), DownloadedBytes: c.downloadedBytes.Load(),
		ZoneHits: c.zoneHits.Load(), ZoneMisses: c.zoneMisses.Load(),
		Corrupt: c.corrupt.Load(), ZoneTime: c.look.Counts(), DownloadTime: c.download.Counts(),
		DownloadEnds: ends, DownloadLimit: s.limit.Stats(), ZoneLimit: s.looks.Stats(),
		Cache: s.cache.Stats(),
	}
}

// numbers returns the counters in the order of wire.StatNames.
func (s Stats) numbers() []uint64 {
	c := &s.Cache
	list := []int64{
		s.Connections, s.Refused, s.Requests,
		s.Hits, s.Misses, s.Parts, s.Flights, s.Waits, s.Timeouts,
		s.Leases, s.Expired, s.Deposits, s.Complaints, s.Touches,
		s.Downloads, s.FailedDownloads, s.DownloadedBytes,
		s.ZoneHits, s.ZoneMisses,
		int64(c.Chunks), c.Bytes, c.MaxBytes, c.MinFree, c.Reserved, int64(c.InUse), c.Kept, int64(c.Pinned), int64(c.History),
		c.Hits, c.Misses, c.Deposits, c.DepositedBytes, c.Aborted, c.Full, c.NoSpace,
		c.Evictions, c.EvictedBytes, c.Damaged, c.ScrubbedBytes, c.ScrubPasses,
	}
	numbers := make([]uint64, len(list))
	for i, n := range list {
		numbers[i] = uint64(n)
	}
	return numbers
}
