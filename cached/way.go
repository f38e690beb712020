package cached

import (
	"errors"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
)

// A way is what a flight has asked other tiers for: clients are told, as they cannot
// see what they waited for. Server.mu guards it.
type way struct {
	ended []chunk.Step // that came to nothing; the first ones
	asked chunk.Tier   // now; Nowhere: none
	since time.Time
}

// asks notes that f's chunk is asked of a tier from now on.
func (s *Server) asks(f *flight, t chunk.Tier) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.way.ask(t)
}

// ask begins a step, in place of one that has not ended.
func (w *way) ask(t chunk.Tier) { w.asked, w.since = t, time.Now() }

// failed ends a step that came to nothing.
func (w *way) failed(err error) {
	if w.asked != chunk.Nowhere && len(w.ended) < wire.MaxSteps-1 {
		w.ended = append(w.ended, chunk.Step{Tier: w.asked, Begun: w.since, Took: time.Since(w.since), Err: err})
	}
	w.asked = chunk.Nowhere
}

// steps returns all steps as an answer tells of them, the last of which has brought so
// many bytes.
func (w *way) steps(bytes int64) []wire.Step {
	now := time.Now()
	var list []wire.Step
	for i := range w.ended {
		s := &w.ended[i]
		ago, end := micros(now.Sub(s.Begun)), wire.Failed
		if errors.Is(s.Err, chunk.ErrNotFound) {
			end = wire.Lacked
		}
		list = append(list, wire.Step{Tier: s.Tier, End: end, Ago: ago, Took: min(ago, micros(s.Took))})
	}
	if w.asked != chunk.Nowhere {
		ago := micros(now.Sub(w.since))
		list = append(list, wire.Step{Tier: w.asked, End: wire.Had, Bytes: uint32(bytes), Ago: ago, Took: ago})
	}
	return list
}

// micros returns d in microseconds, an hour at most.
func micros(d time.Duration) uint32 { return uint32(min(d, time.Hour).Microseconds()) }
