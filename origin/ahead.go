package origin

import (
	"context"
	"sync"
)

// Ahead are pointers some of which are being read before anybody asks. The first
// GetPointer of each of those waits for that read and returns what it brings, as old
// as it is; all other calls are those of the Pointers. So a far place can be asked at
// once for what is known to be wanted soon. Any number of calls may run at once.
type Ahead struct {
	Pointers

	mu    sync.Mutex // guards reads
	reads map[string]chan answer
	stop  context.CancelFunc
	done  sync.WaitGroup
}

type answer struct {
	value []byte
	err   error
}

// ReadAhead begins to read the pointers with those names. The end of ctx, and Close,
// end the reads that are under way.
func ReadAhead(ctx context.Context, p Pointers, names ...string) *Ahead {
	a := &Ahead{Pointers: p, reads: make(map[string]chan answer)}
	ctx, a.stop = context.WithCancel(ctx)
	for _, name := range names {
		to := make(chan answer, 1)
		a.reads[name] = to
		a.done.Go(func() {
			value, err := p.GetPointer(ctx, name)
			to <- answer{value, err}
		})
	}
	return a
}

// Close ends the reads that were begun ahead and waits until none is under way. The
// Pointers are the caller's.
func (a *Ahead) Close() {
	a.stop()
	a.done.Wait()
}

// GetPointer implements [Pointers].
func (a *Ahead) GetPointer(ctx context.Context, name string) ([]byte, error) {
	a.mu.Lock()
	from := a.reads[name]
	delete(a.reads, name)
	a.mu.Unlock()
	if from == nil {
		return a.Pointers.GetPointer(ctx, name)
	}
	select {
	case r := <-from:
		return r.value, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
