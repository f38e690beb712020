package zone

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
)

// primeAtOnce is how many chunks Prime works on at a time.
const primeAtOnce = 8

// Primed says what [Zone.Prime] has done.
type Primed struct {
	Put   int `json:"put"`   // chunks put
	There int `json:"there"` // chunks that were there
	Lost  int `json:"lost"`  // chunks that could not be put
}

// Prime puts those of the chunks that the zone does not hold, as r has them, so
// that their first readers find them. It calls tell, if it is not nil, after each
// chunk with how many are done; one call at a time. A chunk that cannot be put does
// not stop it, one that r does not return does. The error says why the first one is
// lost.
func (z *Zone) Prime(ctx context.Context, ids []chunk.ID, r chunk.Reader, tell func(done, total int)) (Primed, error) {
	var mu sync.Mutex // guards what follows
	var done Primed
	var lost error
	g, gctx := errgroup.WithContext(chunk.WithPriority(ctx, chunk.Fill))
	g.SetLimit(primeAtOnce)
	for _, id := range ids {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			there, err := z.prime(gctx, id, r)
			var failed *readError
			if errors.As(err, &failed) {
				return failed.error
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				done.Lost++
				if lost == nil {
					lost = err
				}
			case there:
				done.There++
			default:
				done.Put++
			}
			if tell != nil {
				tell(done.Put+done.There+done.Lost, len(ids))
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && lost != nil {
		err = fmt.Errorf("%d of %d chunks are not in the zone: %w", done.Lost, len(ids), lost)
	}
	return done, err
}

// A readError is of the place that chunks are primed from.
type readError struct{ error }

// prime puts one chunk, and reports whether it was there.
func (z *Zone) prime(ctx context.Context, id chunk.ID, r chunk.Reader) (there bool, err error) {
	buf := objectBuffers.get()
	defer objectBuffers.put(buf)
	if _, err := z.ReadChunk(ctx, id, buf.bytes(1), 0); err == nil {
		return true, nil
	}
	n, err := r.ReadChunk(ctx, id, buf.bytes(chunk.MaxStoredSize), 0)
	if err != nil {
		return false, &readError{err}
	}
	return false, z.Put(ctx, id, buf.bytes(chunk.MaxStoredSize)[:n])
}
