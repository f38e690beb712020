package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/store/cache"
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/tier"
)

// A Daemon collects the metrics of the host cache.
type Daemon struct {
	Server *cached.Server
	Zone   *zone.Zone // nil: none
}

var _ prometheus.Collector = (*Daemon)(nil)

// The metrics of a Daemon.
var (
	daemonSet set

	daemonConnections = daemonSet.gauge("cached_connections", "Clients of the host cache.")
	daemonRefused     = daemonSet.counter("cached_connections_refused_total", "Clients that were not let in.")
	daemonRequests    = daemonSet.counter("cached_requests_total", "Requests of clients.")
	daemonHits        = daemonSet.counter("cached_hits_total", "Requests for chunks that were answered at once.")
	daemonMisses      = daemonSet.counter("cached_misses_total", "Requests for chunks that were told to read elsewhere.")
	daemonParts       = daemonSet.counter("cached_parts_total", "Requests for chunks that were answered before the chunk was whole.")
	daemonFlights     = daemonSet.counter("cached_flights_total", "Chunks that had to be got from somewhere.")
	daemonWaits       = daemonSet.counter("cached_flight_waits_total", "Requests that waited for a chunk which was being got already: single-flight.")
	daemonTimeouts    = daemonSet.counter("cached_wait_timeouts_total", "Requests that waited for too long.")
	daemonLeases      = daemonSet.counter("cached_leases_total", "Leases given to clients: the right to fetch a chunk for all.")
	daemonExpired     = daemonSet.counter("cached_leases_expired_total", "Leases that were not used in time.")
	daemonDeposits    = daemonSet.counter("cached_client_deposits_total", "Chunks that clients brought.")
	daemonComplaints  = daemonSet.counter("cached_complaints_total", "Chunks that clients found damaged.")
	daemonTouches     = daemonSet.counter("cached_touches_total", "Uses of chunks by descriptors that clients had, which ask for nothing.")
	daemonCorrupt     = daemonSet.counter("cached_corrupt_chunks_total", "Chunks that the door refused: of downloads, the zone and clients.")

	downloads       = daemonSet.counter("cached_downloads_total", "Requests to origins, by how they ended: one for a chunk, or for its header and each run of the frames that are wanted.", "outcome")
	downloadedBytes = daemonSet.counter("cached_downloaded_bytes_total", "Bytes downloaded.")
	downloadTime    = daemonSet.histogram("cached_download_duration_seconds", "How long downloads took, without the wait in line.")
	zoneLooks       = daemonSet.counter("cached_zone_lookups_total", "Looks into the zone, by outcome: hit or miss.", "outcome")
	zoneTime        = daemonSet.histogram("cached_zone_lookup_duration_seconds", "How long looks into the zone took.")

	cacheChunks    = daemonSet.gauge("cached_chunks", "Chunks on the disk.")
	cacheBytes     = daemonSet.gauge("cached_bytes", "Bytes that they, and what is on its way, take.")
	cacheMax       = daemonSet.gauge("cached_max_bytes", "Bytes that they may take.")
	cacheReserved  = daemonSet.gauge("cached_reserved_bytes", "Bytes of what is on its way.")
	cacheKept      = daemonSet.gauge("cached_kept_bytes", "Bytes that cannot be evicted, as they are in use or pinned.")
	cacheInUse     = daemonSet.gauge("cached_chunks_in_use", "Chunks that are being sent or written.")
	cachePins      = daemonSet.gauge("cached_pins", "Pins, of chunks on the disk or not.")
	cacheHistory   = daemonSet.gauge("cached_history_chunks", "Chunks that are remembered and not on the disk.")
	cacheCommitted = daemonSet.counter("cached_deposits_total", "Chunks that were put on the disk.")
	cacheWritten   = daemonSet.counter("cached_deposited_bytes_total", "Bytes of these chunks.")
	cacheAborted   = daemonSet.counter("cached_deposits_aborted_total", "Chunks that were begun and not put on the disk.")
	cacheFull      = daemonSet.counter("cached_no_room_total", "Chunks for which there was no room, as nothing could be evicted.")
	cacheNoSpace   = daemonSet.counter("cached_file_system_full_total", "Writes that the file system had no room for.")
	evictions      = daemonSet.counter("cached_evictions_total", "Chunks evicted.")
	evictedBytes   = daemonSet.counter("cached_evicted_bytes_total", "Bytes that they took.")
	cacheDamaged   = daemonSet.counter("cached_damaged_chunks_total", "Files that were found damaged, by the scrub or by readers, and dropped.")
	scrubbedBytes  = daemonSet.counter("cached_scrubbed_bytes_total", "Bytes that the scrub checked and found good.")
	scrubPasses    = daemonSet.counter("cached_scrub_passes_total", "Times that the scrub came to the end of the disk.")
)

// Describe implements [prometheus.Collector].
func (d *Daemon) Describe(ch chan<- *prometheus.Desc) {
	daemonSet.describe(ch)
	limitSet.describe(ch)
	zoneSet.describe(ch)
}

// Collect implements [prometheus.Collector].
func (d *Daemon) Collect(ch chan<- prometheus.Metric) {
	s, out := d.Server.Stats(), sink(ch)
	out.put(daemonConnections, s.Connections)
	out.put(daemonRefused, s.Refused)
	out.put(daemonRequests, s.Requests)
	out.put(daemonHits, s.Hits)
	out.put(daemonMisses, s.Misses)
	out.put(daemonParts, s.Parts)
	out.put(daemonFlights, s.Flights)
	out.put(daemonWaits, s.Waits)
	out.put(daemonTimeouts, s.Timeouts)
	out.put(daemonLeases, s.Leases)
	out.put(daemonExpired, s.Expired)
	out.put(daemonDeposits, s.Deposits)
	out.put(daemonComplaints, s.Complaints)
	out.put(daemonTouches, s.Touches)
	out.put(daemonCorrupt, s.Corrupt)
	for i, n := range s.DownloadEnds {
		if n > 0 || tier.Class(i) == tier.OK {
			out.put(downloads, n, tier.Class(i).String())
		}
	}
	out.put(downloadedBytes, s.DownloadedBytes)
	out.times(downloadTime, &s.DownloadTime)
	out.put(zoneLooks, s.ZoneHits, "hit")
	out.put(zoneLooks, s.ZoneMisses, "miss")
	out.times(zoneTime, &s.ZoneTime)
	out.cache(&s.Cache)
	out.limit("downloads", &s.DownloadLimit)
	out.limit("zone", &s.ZoneLimit)
	if d.Zone != nil {
		z := d.Zone.Stats()
		out.zone(&z)
	}
}

func (ch sink) cache(s *cache.Stats) {
	ch.put(cacheChunks, int64(s.Chunks))
	ch.put(cacheBytes, s.Bytes)
	ch.put(cacheMax, s.MaxBytes)
	ch.put(cacheReserved, s.Reserved)
	ch.put(cacheKept, s.Kept)
	ch.put(cacheInUse, int64(s.InUse))
	ch.put(cachePins, int64(s.Pinned))
	ch.put(cacheHistory, int64(s.History))
	ch.put(cacheCommitted, s.Deposits)
	ch.put(cacheWritten, s.DepositedBytes)
	ch.put(cacheAborted, s.Aborted)
	ch.put(cacheFull, s.Full)
	ch.put(cacheNoSpace, s.NoSpace)
	ch.put(evictions, s.Evictions)
	ch.put(evictedBytes, s.EvictedBytes)
	ch.put(cacheDamaged, s.Damaged)
	ch.put(scrubbedBytes, s.ScrubbedBytes)
	ch.put(scrubPasses, s.ScrubPasses)
}
