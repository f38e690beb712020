package disk

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/internal/histogram"
)

// memorySample is of how many reads one is timed that memory answers: a look at the
// clock costs a tenth of such a read.
const memorySample = 64

// A Histogram is how often which time was taken.
type Histogram = histogram.Counts

// A Meter counts what reads took and where their bytes came from, tier by tier, for any
// number of disks. The zero value is ready.
type Meter struct{ tiers [chunk.Tiers]meter }

type meter struct {
	reads, asked                histogram.Histogram
	had, lacked, corrupt, other atomic.Int64
	slow                        atomic.Int64
}

// TierStats are what a Meter has counted of one tier.
type TierStats struct {
	// Reads are those that needed this tier and none behind it, by how long they took;
	// of chunk.Nowhere, those that failed. Of reads that memory answered one in 64 is
	// timed, and counts as so many.
	Reads Histogram
	Slow  int64 // of them, those that took Options.Slow

	// Asked is how long the tier took to answer fetches, prefetches among them: chunk.Steps
	// of that tier, by their end.
	Asked   Histogram
	Had     int64 // answered
	Lacked  int64 // the tier did not have it
	Corrupt int64 // what came was not what was asked for
	Failed  int64 // any other end
}

// Stats returns the counters of all tiers, by chunk.Tier.
func (m *Meter) Stats() (s [chunk.Tiers]TierStats) {
	for i := range s {
		t := &m.tiers[i]
		s[i] = TierStats{
			Reads: t.reads.Counts(), Slow: t.slow.Load(), Asked: t.asked.Counts(),
			Had: t.had.Load(), Lacked: t.lacked.Load(), Corrupt: t.corrupt.Load(), Failed: t.other.Load(),
		}
	}
	return s
}

// read counts a read that memory could not answer.
func (m *Meter) read(t chunk.Tier, took time.Duration, slow bool) {
	m.tiers[t].reads.Add(took, 1)
	if slow {
		m.tiers[t].slow.Add(1)
	}
}

// fetched counts the steps of a fetch.
func (m *Meter) fetched(trace *chunk.Trace) {
	trace.Each(func(s *chunk.Step) {
		t := &m.tiers[min(s.Tier, chunk.Origin)]
		t.asked.Add(s.Took, 1)
		var corrupt *chunk.CorruptError
		switch {
		case s.Err == nil:
			t.had.Add(1)
		case errors.Is(s.Err, chunk.ErrNotFound):
			t.lacked.Add(1)
		case errors.As(s.Err, &corrupt):
			t.corrupt.Add(1)
		default:
			t.other.Add(1)
		}
	})
}
