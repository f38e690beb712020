package disk

import (
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// DefaultSlow is how long a read takes that is slow, unless Options say otherwise.
const DefaultSlow = 100 * time.Millisecond

// MaxSlowFetches bounds the fetches that a SlowRead tells of.
const MaxSlowFetches = 16

// A SlowRead is a read that was not answered out of memory, and took Options.Slow or
// longer, or failed.
type SlowRead struct {
	Disk   string // digest of the block map
	Reader string // who read, as ReadFor was told; "": nobody said
	Offset int64  // of the first byte on the disk
	Length int    // bytes asked for
	Begun  time.Time
	Wait   time.Duration // until it was answered
	Tier   chunk.Tier    // the furthest that it needed, if readers tell (chunk.Trace); Nowhere if it failed
	Err    error         // nil: it was answered

	// Fetches are those that it waited for, in the order of the disk, and More is how
	// many it tells nothing of. Reads that were near (Options.Near) are not among them.
	Fetches []SlowFetch
	More    int
}

// A SlowFetch is a fetch that a slow read waited for, be it begun by that read, by an
// earlier one or by Prefetch.
type SlowFetch struct {
	Chunk  chunk.ID
	Offset int64 // on the disk of the first byte that the read took from it
	Length int   // bytes that the read took from its first frame
	Tier   chunk.Tier

	Demanded  time.Time     // when a read first asked for it
	Queued    time.Duration // that it then waited for a place in the window of fetches
	Steps     []chunk.Step  // what it asked of which tier, so far
	MoreSteps int           // that it tells nothing of
	Err       error         // nil: it brought what the read waited for
}

// A missed is what is remembered of a read that memory could not answer.
type missed struct {
	reader string
	off    int64
	length int
	begun  time.Time
	tier   chunk.Tier

	fetches []SlowFetch
	more    int
}

// waited adds what a batch of m's read waited for. off is where the batch begins on
// the disk.
func (d *Disk) waited(m *missed, waits []wait, off int64, failed bool) {
	for i := range waits {
		m.tier = max(m.tier, waits[i].flight.trace.Reached())
	}
	if d.opt.OnSlow == nil || !failed && time.Since(m.begun) < d.opt.Slow {
		return
	}
	for i := range waits {
		w := &waits[i]
		if i > 0 && w.flight == waits[i-1].flight { // of one chunk, one after the other
			continue
		}
		if len(m.fetches) == MaxSlowFetches {
			m.more++
			continue
		}
		f := SlowFetch{
			Chunk: w.flight.chunk.ID, Offset: off + int64(w.at), Length: len(w.dst),
			Tier: w.flight.trace.Reached(), Err: w.err,
		}
		f.Steps, f.MoreSteps = w.flight.trace.Steps()
		d.mu.Lock()
		f.Demanded = w.flight.demanded
		if launched := w.flight.launched; launched.After(f.Demanded) {
			f.Queued = launched.Sub(f.Demanded)
		}
		d.mu.Unlock()
		m.fetches = append(m.fetches, f)
	}
}

// done counts m's read, and tells of it if it was slow, or failed.
func (d *Disk) done(m *missed, err error) {
	if err != nil {
		m.tier = chunk.Nowhere
	}
	took := time.Since(m.begun)
	slow := took >= d.opt.Slow
	d.opt.Meter.read(m.tier, took, slow)
	if d.opt.OnSlow == nil || !slow && err == nil {
		return
	}
	d.opt.OnSlow(&SlowRead{
		Disk: d.m.Digest().String(), Reader: m.reader, Offset: m.off, Length: m.length,
		Begun: m.begun, Wait: took, Tier: m.tier, Err: err,
		Fetches: m.fetches, More: m.more,
	})
}
