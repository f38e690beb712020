package generation

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
)

// questions bounds what a Sampled has to ask; more are dropped, as a sample can
// be.
const questions = 16

// Sampled is a cache of which a sample of the hits is looked for at the origin
// too, so that a warm cache cannot hide that the origin has lost a chunk. The
// asking is done by one goroutine, behind the reads. Any number of calls may run
// at once; the caller closes it.
type Sampled struct {
	cache   chunk.Source
	origin  chunk.Prober
	rate    float64
	missing func(chunk.ID)

	ask    chan chunk.ID
	cancel context.CancelFunc
	done   sync.WaitGroup
}

var _ chunk.Source = (*Sampled)(nil)

// NewSampled returns cache with rate (0 to 1) of its hits looked for at origin.
// missing is told of each that is not there, from one goroutine; an Image as
// origin has raised the alarm by then.
func NewSampled(cache chunk.Source, origin chunk.Prober, rate float64, missing func(chunk.ID)) *Sampled {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Sampled{cache: cache, origin: origin, rate: rate, missing: missing, ask: make(chan chunk.ID, questions), cancel: cancel}
	s.done.Go(func() { s.answer(ctx) })
	return s
}

// Fetch implements [chunk.Source].
func (s *Sampled) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	n, err := s.cache.Fetch(ctx, id, dst, off)
	if err == nil && rand.Float64() < s.rate {
		select {
		case s.ask <- id:
		default:
		}
	}
	return n, err
}

func (s *Sampled) answer(ctx context.Context) {
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
func (s *Sampled) Close() error {
	s.cancel()
	s.done.Wait()
	return nil
}
