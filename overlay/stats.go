package overlay

import "sync/atomic"

type counters struct {
	written, zeroed, flushes, rounds atomic.Int64
}

// Stats are figures of an overlay, since it was opened where nothing else is said.
type Stats struct {
	Written   int64 // bytes of WriteAt
	Zeroed    int64 // bytes of Discard and WriteZeroes
	Flushes   int64 // calls
	Rounds    int64 // of syncing, each of which served the flushes that waited
	Allocated int64 // bytes of storage that blocks of all layers take, now
	Quota     int64 // bytes, 0: none
	Layers    int   // now; 1 without snapshots
}

// Stats returns the overlay's figures.
func (o *Overlay) Stats() Stats {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return Stats{
		Written:   o.stats.written.Load(),
		Zeroed:    o.stats.zeroed.Load(),
		Flushes:   o.stats.flushes.Load(),
		Rounds:    o.stats.rounds.Load(),
		Allocated: o.used,
		Quota:     o.quota,
		Layers:    len(o.table.order),
	}
}
