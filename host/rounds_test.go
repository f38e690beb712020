package host

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/origin"
)

// TestRounds has many ask for a name at once, which is then given to something else.
func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		name := sought{"store", "nginx"}
		published, calls := byte(1), 0
		look := func(context.Context) (origin.Digest, error) {
			calls++ // one at a time
			d := origin.Digest{published}
			time.Sleep(time.Second)
			return d, nil
		}
		var wg sync.WaitGroup
		ask := func(want byte) {
			wg.Go(func() {
				if d, err := r.find(t.Context(), name, look); err != nil || d[0] != want {
					t.Errorf("got %v, %v; want %d", d, err, want)
				}
			})
		}
		ask(1)
		synctest.Wait()
		published = 2
		for range 100 {
			ask(2) // the look that runs began before that was published
		}
		wg.Wait()
		if calls != 2 {
			t.Errorf("%d looks, want 2", calls)
		}
		if len(r.names) != 0 {
			t.Errorf("%d names are kept", len(r.names))
		}
	})
}

// TestRoundsGivenUp has those who look give up, while others wait for them.
func TestRoundsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		name := sought{"store", "nginx"}
		look := func(ctx context.Context) (origin.Digest, error) {
			select {
			case <-time.After(time.Second):
				return origin.Digest{7}, nil
			case <-ctx.Done():
				return origin.Digest{}, ctx.Err()
			}
		}
		var wg sync.WaitGroup
		ask := func(patience time.Duration, want error) {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if d, err := r.find(ctx, name, look); !errors.Is(err, want) || err == nil && d[0] != 7 {
					t.Errorf("with %v: %v, %v; want %v", patience, d, err, want)
				}
			})
			synctest.Wait()
		}
		ask(500*time.Millisecond, context.DeadlineExceeded) // looks, and gives up
		ask(200*time.Millisecond, context.DeadlineExceeded) // is to look next, and gives up before
		ask(time.Minute, nil)
		ask(100*time.Millisecond, context.DeadlineExceeded) // waits for another
		ask(time.Minute, nil)
		wg.Wait()
		if len(r.names) != 0 {
			t.Errorf("%d names are kept", len(r.names))
		}
	})
}

// TestRoundsFail gives all who wait the error of the look.
func TestRoundsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		away := errors.New("the store is away")
		calls := 0
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := r.find(t.Context(), sought{"store", "nginx"}, func(context.Context) (origin.Digest, error) {
					calls++
					time.Sleep(time.Second)
					return origin.Digest{}, away
				})
				if !errors.Is(err, away) {
					t.Errorf("got %v, want %v", err, away)
				}
			})
		}
		wg.Wait()
		if calls != 1 && calls != 2 { // the first may have begun before others asked
			t.Errorf("%d looks for 10 who asked at once", calls)
		}
	})
}
