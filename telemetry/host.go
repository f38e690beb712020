package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/host"
)

// A Host collects the metrics of a process that holds disks: an agent, serve, a mount.
// Its fields are set before it is registered.
type Host struct {
	Host    *host.Host
	Origins *Origins             // that it reads
	Cache   *cachedclient.Client // nil: none
	NBD     func() nbd.Stats     // of its NBD servers
}

var _ prometheus.Collector = (*Host)(nil)

// The metrics of a Host.
var (
	hostSet set

	attachments = hostSet.gauge("attachments", "Attachments by state: ready, opening (offered, and reads wait for the disk) or waiting (not offered yet).", "state")
	reads       = hostSet.counter("reads_total", "Reads of attachments, by frontend and image.", "frontend", "image")
	readBytes   = hostSet.counter("read_bytes_total", "Bytes that these reads returned.", "frontend", "image")
	readErrors  = hostSet.counter("read_errors_total", "Of these reads, those that failed.", "frontend", "image")
	hungReads   = hostSet.counter("hung_reads_total", "Of those that failed, reads that were given up for want of time: EIO for a guest.", "frontend", "image")

	readTime  = hostSet.histogram("read_duration_seconds", "How long reads took, by the furthest tier that they needed; none: they failed. Of reads from memory one in 64 is timed, and counts as 64.", "tier")
	slowReads = hostSet.counter("slow_reads_total", "Reads that took as long as --slow-read says, by the furthest tier that they needed.", "tier")

	tierTime     = hostSet.histogram("tier_duration_seconds", "How long tiers behind memory took to answer, waiting in line included.", "tier")
	tierRequests = hostSet.counter("tier_requests_total", "What tiers were asked, by how that ended: had, lacked, corrupt (refused at the door) or failed. Of memory: frames; of others: by a fetch, and what several fetches waited for counts for each.", "tier", "outcome")

	memoryBytes  = hostSet.gauge("memory_bytes", "Decoded frames in memory.")
	nearReads    = hostSet.counter("near_reads_total", "Parts of frames that were read from the host cache's files by the page, past memory.")
	flightWaits  = hostSet.counter("flight_waits_total", "Frames that were being fetched already when they were wanted: single-flight.")
	fetches      = hostSet.counter("fetches_total", "Fetches begun, of chunks or frames.")
	fetchedBytes = hostSet.counter("fetched_bytes_total", "Stored bytes that fetches brought, from any tier.")
	retries      = hostSet.counter("fetch_retries_total", "Attempts of fetches after the first.")
	prefetches   = hostSet.counter("prefetches_total", "Fetches queued ahead of reads.")
	dropped      = hostSet.counter("prefetches_dropped_total", "Fetches ahead of reads that found the queue full.")

	touched    = hostSet.counter("frames_touched_total", "Frames that were read at least once, of each disk since it was opened.")
	ahead      = hostSet.counter("ahead_frames_total", "Frames that were brought before they were read, by profiles of earlier starts.")
	aheadUsed  = hostSet.counter("ahead_used_frames_total", "Of these, those that were read since.")
	aheadLost  = hostSet.counter("ahead_wasted_frames_total", "Of these, those that had not been read when the start was over.")
	aheadBytes = hostSet.counter("ahead_bytes_total", "Stored bytes that were fetched for them.")
	replayed   = hostSet.counter("starts_replayed_total", "Starts that were read ahead of.")
	recorded   = hostSet.counter("starts_recorded_total", "Starts that were recorded to their end, by where they are remembered: origin, state (the folder of this host) or nowhere.", "kept")

	fills       = hostSet.gauge("fills", "Attachments whose whole disk is brought to the host cache, by how far that is: waiting (for the start), running, paused, done or failed.", "state")
	fillLacking = hostSet.gauge("fill_lacking_chunks", "Chunks that these have still to bring.")

	clientAsks      = hostSet.counter("cache_client_requests_total", "Questions to the host cache.")
	clientFallbacks = hostSet.counter("cache_client_fallbacks_total", "Reads of the origin because the host cache was of no help.")
	clientHanded    = hostSet.counter("cache_client_handed_total", "Requests that the host cache was given to send.")
	clientBrought   = hostSet.counter("cache_client_deposits_total", "Chunks read from the origin for all of the host.")
	clientDamaged   = hostSet.counter("cache_client_damaged_total", "Files of the host cache that turned out damaged.")
	clientConnects  = hostSet.counter("cache_client_connections_total", "Connections to the host cache that were made.")
	clientLosses    = hostSet.counter("cache_client_connections_lost_total", "Connections to the host cache that ended.")
	clientHeld      = hostSet.gauge("cache_client_held_chunks", "Chunks whose files are held open.")

	nbdConnections = hostSet.gauge("nbd_connections", "NBD connections.")
	nbdAccepted    = hostSet.counter("nbd_connections_accepted_total", "NBD connections that were let in.")
	nbdRefused     = hostSet.counter("nbd_connections_refused_total", "NBD connections beyond the bound.")
	nbdRequests    = hostSet.counter("nbd_requests_total", "Requests of NBD clients.")
	nbdFailed      = hostSet.counter("nbd_request_errors_total", "Requests of NBD clients that were answered by an error.")
)

// Describe implements [prometheus.Collector].
func (*Host) Describe(ch chan<- *prometheus.Desc) {
	hostSet.describe(ch)
	originSet.describe(ch)
	limitSet.describe(ch)
}

// Collect implements [prometheus.Collector].
func (h *Host) Collect(ch chan<- prometheus.Metric) {
	s, out := h.Host.Stats(), sink(ch)
	states := map[host.State]int64{host.Ready: 0, host.Opening: 0, host.Waiting: 0}
	filling := map[host.FillState]int64{host.FillWaits: 0, host.FillRuns: 0, host.FillPaused: 0, host.FillDone: 0, host.FillFailed: 0}
	lacking := int64(0)
	for _, i := range h.Host.List() {
		states[i.State]++
		if i.Fill != nil {
			filling[i.Fill.State]++
			lacking += int64(i.Fill.Chunks - i.Fill.Done)
		}
	}
	for state, n := range filling {
		out.put(fills, n, string(state))
	}
	out.put(fillLacking, lacking)
	for state, n := range states {
		out.put(attachments, n, string(state))
	}
	for key, v := range s.Served {
		out.put(reads, v.Reads, key.Frontend, key.Image)
		out.put(readBytes, v.Bytes, key.Frontend, key.Image)
		out.put(readErrors, v.Errors, key.Frontend, key.Image)
		out.put(hungReads, v.Hung, key.Frontend, key.Image)
	}
	out.disks(&s.Disks)
	for t := range chunk.Tier(chunk.Tiers) {
		out.tier(t, &s.Tiers[t])
	}
	out.put(memoryBytes, s.Memory)
	out.starts(&s.Starts)
	if h.Cache != nil {
		out.client(h.Cache.Stats())
	}
	out.nbd(h.NBD())
	h.Origins.collect(out)
}

func (ch sink) disks(s *disk.Stats) {
	memory := chunk.Memory.String()
	ch.put(tierRequests, s.Hits, memory, "had")
	ch.put(tierRequests, s.Misses, memory, "lacked")
	ch.put(nearReads, s.Near)
	ch.put(flightWaits, s.Waits)
	ch.put(fetches, s.Fetches)
	ch.put(fetchedBytes, s.FetchedBytes)
	ch.put(retries, s.Retries)
	ch.put(prefetches, s.Prefetches)
	ch.put(dropped, s.Dropped)
	ch.put(touched, s.Touched)
	ch.put(ahead, s.Ahead)
	ch.put(aheadUsed, s.AheadUsed)
	ch.put(aheadBytes, s.AheadBytes)
}

func (ch sink) starts(s *host.StartStats) {
	ch.put(replayed, s.Replayed)
	ch.put(recorded, s.Published, "origin")
	ch.put(recorded, s.Kept, "state")
	ch.put(recorded, s.Lost, "nowhere")
	ch.put(aheadLost, s.Wasted)
}

func (ch sink) tier(t chunk.Tier, s *disk.TierStats) {
	name := t.String()
	ch.times(readTime, &s.Reads, name)
	ch.put(slowReads, s.Slow, name)
	if t <= chunk.Memory {
		return // nobody is asked there
	}
	ch.times(tierTime, &s.Asked, name)
	ch.put(tierRequests, s.Had, name, "had")
	ch.put(tierRequests, s.Lacked, name, "lacked")
	ch.put(tierRequests, s.Corrupt, name, "corrupt")
	ch.put(tierRequests, s.Failed, name, "failed")
}

func (ch sink) client(s cachedclient.Stats) {
	ch.put(clientAsks, s.Asks)
	ch.put(clientFallbacks, s.Fallbacks)
	ch.put(clientHanded, s.Handed)
	ch.put(clientBrought, s.Brought)
	ch.put(clientDamaged, s.Damaged)
	ch.put(clientConnects, s.Connects)
	ch.put(clientLosses, s.Losses)
	ch.put(clientHeld, int64(s.Held))
}

func (ch sink) nbd(s nbd.Stats) {
	ch.put(nbdConnections, int64(s.Connections))
	ch.put(nbdAccepted, s.Accepted)
	ch.put(nbdRefused, s.Refused)
	ch.put(nbdRequests, s.Requests)
	ch.put(nbdFailed, s.Failed)
}
