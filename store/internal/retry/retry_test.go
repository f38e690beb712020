package retry

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var errTest = errors.New("test")

func policy(attempts int) *Policy {
	return &Policy{
		Budget:   &Budget{Share: 0.1, PerSecond: 2, Burst: 10},
		Attempts: attempts, First: 100 * time.Millisecond, Longest: 10 * time.Second,
	}
}

func TestDo(t *testing.T) {
	for name, c := range map[string]struct {
		fails    int // attempts that fail
		err      error
		attempts int
		want     error
	}{
		"at once":       {0, nil, 1, nil},
		"third time":    {2, Again(errTest), 3, nil},
		"never":         {100, Again(errTest), 5, errTest},
		"no use":        {100, errTest, 1, errTest},
		"wrapped":       {1, errors.Join(Again(errTest)), 2, nil},
		"nothing there": {1, &Failure{Err: errTest, Free: true}, 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				err := policy(5).Do(context.Background(), func(context.Context) error {
					if n++; n <= c.fails {
						return c.err
					}
					return nil
				})
				var f *Failure
				if !errors.Is(err, c.want) || n != c.attempts || errors.As(err, &f) {
					t.Errorf("%v after %d attempts, want %v after %d", err, n, c.want, c.attempts)
				}
			})
		})
	}
}

func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := time.Now()
		var pauses []time.Duration
		_ = policy(6).Do(context.Background(), func(context.Context) error {
			pauses = append(pauses, time.Since(last))
			last = time.Now()
			return Again(errTest)
		})
		for i, p := range pauses[1:] {
			most := 100 * time.Millisecond << i
			if p < most/2 || p > most {
				t.Errorf("pause %d is %v, want half of %v or more", i, p, most)
			}
		}
	})
}

func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for after, want := range map[time.Duration]time.Duration{3 * time.Second: 3 * time.Second, time.Hour: 10 * time.Second} {
			begin, n := time.Now(), 0
			err := policy(5).Do(context.Background(), func(context.Context) error {
				if n++; n == 1 {
					return &Failure{Err: errTest, After: after}
				}
				return nil
			})
			if took := time.Since(begin); err != nil || took != want {
				t.Errorf("asked to wait %v: %v, %v; want %v", after, took, err, want)
			}
		}
		// What cannot be waited for is not waited for at all.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		begin := time.Now()
		err := policy(5).Do(ctx, func(context.Context) error { return &Failure{Err: errTest, After: 3 * time.Second} })
		if !errors.Is(err, errTest) || time.Since(begin) != 0 {
			t.Errorf("%v after %v; want the error at once", err, time.Since(begin))
		}
	})
}

// TestBudget has many operations fail for a minute: the retries are bounded by
// time, whatever their number.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy(1000)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var requests atomic.Int64
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				err := p.Do(ctx, func(context.Context) error { requests.Add(1); return Again(errTest) })
				if !errors.Is(err, errTest) {
					t.Errorf("Do = %v", err)
				}
			})
		}
		wg.Wait()
		// 200 first attempts; retries of the burst, of a minute, and of the
		// share that all requests earn.
		retries := requests.Load() - 200
		if most := int64((10 + 60*2 + 20) / 0.9 * 1.05); retries > most || retries < 100 {
			t.Errorf("%d retries in a minute, want at most %d", retries, most)
		}
	})
}

func TestNoBudget(t *testing.T) {
	n := 0
	p := &Policy{Budget: &Budget{}, Attempts: 5}
	if err := p.Do(context.Background(), func(context.Context) error { n++; return Again(errTest) }); err != errTest || n != 1 {
		t.Errorf("%v after %d attempts", err, n)
	}
}

func TestEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(30*time.Millisecond, cancel)
		begin := time.Now()
		if err := policy(5).Do(ctx, func(context.Context) error { return Again(errTest) }); !errors.Is(err, errTest) || !errors.Is(err, context.Canceled) {
			t.Errorf("Do = %v", err)
		}
		if took := time.Since(begin); took != 30*time.Millisecond {
			t.Errorf("ended after %v", took)
		}
		ctx, cancel = context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n := 0
		err := policy(5).Do(ctx, func(ctx context.Context) error {
			if n++; n == 1 {
				return Again(errTest)
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, errTest) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hung after a failure: %v; want both", err)
		}
	})
}
