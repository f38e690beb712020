package generation

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
)

// questions bounds what a Sampler has to ask; more are dropped, as a sample can
// be.
const questions = 16

// A Sampler looks for a sample of a cache's hits at the origin too, so that a
// warm cache cannot hide that the origin has lost a chunk. The asking is done by
// one goroutine, behind the reads. Any number of calls may run at once; the caller
// closes it.
type Sampler struct {
	origin  chunk.Prober
	rate    float64
	missing func(chunk.ID)

	ask    chan chunk.ID
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// NewSampler returns a Sampler that looks for a part, rate (0 to 1), of the hits at
// origin. missing is told of each that is not there, from one goroutine; an Image
// as origin has raised the alarm by then.
func NewSampler(origin chunk.Prober, rate float64, missing func(chunk.ID)) *Sampler {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sampler{origin: origin, rate: rate, missing: missing, ask: make(chan chunk.ID, questions), cancel: cancel}
	s.done.Go(func() { s.answer(ctx) })
	return s
}

// Pick reports, by chance, whether a hit belongs to the sample.
func (s *Sampler) Pick() bool { return rand.Float64() < s.rate }

// Look has a chunk that the cache had looked for. It does not block.
func (s *Sampler) Look(id chunk.ID) {
	select {
	case s.ask <- id:
	default:
	}
}

func (s *Sampler) answer(ctx context.Context) {
	for {
		select {
		case id := <-s.ask:
			_, err := s.origin.Stat(ctx, id)
			if errors.Is(err, chunk.ErrNotFound) {
				s.missing(id)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Close ends the asking.
func (s *Sampler) Close() error {
	s.cancel()
	s.done.Wait()
	return nil
}
