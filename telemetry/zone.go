package telemetry

import (
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/tier"
)

// The metrics of a zone, as one host sees it. Nodes are those of its configuration.
var (
	zoneSet set

	zoneReads    = zoneSet.counter("zone_reads_total", "Chunks that the zone was asked for, by outcome: hit, miss or failed.", "outcome")
	zoneRebuilt  = zoneSet.counter("zone_rebuilt_total", "Hits in which parity stood in for a stripe.")
	zoneBad      = zoneSet.counter("zone_bad_stripes_total", "Stripes that were not what their key promises.")
	zoneRepaired = zoneSet.counter("zone_repaired_stripes_total", "Stripes put again that a read had missed.")
	zoneSpread   = zoneSet.counter("zone_spread_reads_total", "Reads that turned to another copy because nodes were loaded.")
	zoneHedges   = zoneSet.counter("zone_hedges_total", "Reads that were late and sent a second time.")
	zoneWon      = zoneSet.counter("zone_hedges_won_total", "Of them: the second request answered first.")
	zoneDenied   = zoneSet.counter("zone_hedges_denied_total", "Reads that were late while there was no token for a second request.")
	zoneFills    = zoneSet.counter("zone_fills_total", "Chunks that were to be put into the zone, by outcome: put, partial (too few stripes to read them) or dropped.", "outcome")
	zoneFilled   = zoneSet.counter("zone_fill_bytes_total", "Bytes of the chunks that were put.")
	zoneQueued   = zoneSet.gauge("zone_queued_bytes", "Bytes that wait to be put.")

	nodeRequests = zoneSet.counter("zone_node_requests_total", "Requests sent to a node: reads, writes and removals.", "node")
	nodeReads    = zoneSet.counter("zone_node_outcomes_total", "How requests of a node ended: hit, miss (both of reads), error or timeout; or why they were not sent: busy (too many were under way) or skipped (it is left out).", "node", "outcome")
	nodeReceived = zoneSet.counter("zone_node_received_bytes_total", "Bytes of values that a node sent.", "node")
	nodeSent     = zoneSet.counter("zone_node_sent_bytes_total", "Bytes of values that a node was sent.", "node")
	nodeInFlight = zoneSet.gauge("zone_node_in_flight", "Reads of a node that run or wait.", "node")
	nodeTime     = zoneSet.histogram("zone_node_duration_seconds", "How long a node took to answer.", "node")
	nodeBreaker  = zoneSet.gauge("zone_node_breaker_open", "1 while a node's breaker is open: it is not asked.", "node")
	nodeOpened   = zoneSet.counter("zone_node_breaker_opened_total", "Times that a node's breaker opened.", "node")
	nodeRejected = zoneSet.counter("zone_node_breaker_rejected_total", "Requests that a node's breaker refused.", "node")
)

func (ch sink) zone(s *zone.Stats) {
	ch.put(zoneReads, s.Hits, "hit")
	ch.put(zoneReads, s.Misses, "miss")
	ch.put(zoneReads, s.Failed, "failed")
	ch.put(zoneRebuilt, s.Rebuilt)
	ch.put(zoneBad, s.Bad)
	ch.put(zoneRepaired, s.Repaired)
	ch.put(zoneSpread, s.Spread)
	ch.put(zoneHedges, s.Hedged)
	ch.put(zoneWon, s.HedgeWon)
	ch.put(zoneDenied, s.Unhedged)
	ch.put(zoneFills, s.Fills, "put")
	ch.put(zoneFills, s.Unfilled, "partial")
	ch.put(zoneFills, s.Dropped, "dropped")
	ch.put(zoneFilled, s.FillBytes)
	ch.put(zoneQueued, s.Queued)
	for i := range s.Nodes {
		ch.node(&s.Nodes[i])
	}
}

func (ch sink) node(n *zone.NodeStats) {
	ch.put(nodeRequests, n.Requests, n.Name)
	ch.put(nodeReads, n.Hits, n.Name, "hit")
	ch.put(nodeReads, n.Misses, n.Name, "miss")
	ch.put(nodeReads, n.Errors, n.Name, "error")
	ch.put(nodeReads, n.Timeouts, n.Name, "timeout")
	ch.put(nodeReads, n.Busy, n.Name, "busy")
	ch.put(nodeReads, n.Skipped, n.Name, "skipped")
	ch.put(nodeReceived, n.Received, n.Name)
	ch.put(nodeSent, n.Sent, n.Name)
	ch.put(nodeInFlight, int64(n.InFlight), n.Name)
	ch.times(nodeTime, &n.Latency, n.Name)
	ch.put(nodeBreaker, truth(n.Breaker.State == tier.Open), n.Name)
	ch.put(nodeOpened, n.Breaker.Opened, n.Name)
	ch.put(nodeRejected, n.Breaker.Rejected, n.Name)
}
