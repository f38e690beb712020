package tier

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

func TestLatencyBuckets(t *testing.T) {
	last := -1
	for micros := uint64(0); micros < maxMicros; micros += 1 + micros/50 {
		i := bucketOf(micros)
		d := time.Duration(micros) * time.Microsecond
		if i < last || i >= latencyBuckets || upper(i) <= d || upper(i) > d+d/8+time.Microsecond {
			t.Fatalf("%v is in bucket %d below %v; the last one was in %d", d, i, upper(i), last)
		}
		last = i
	}
	if i := bucketOf(1 << 60); i != latencyBuckets-1 {
		t.Errorf("eternity is in bucket %d of %d", i, latencyBuckets)
	}
}

func TestLatencyQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l latencies
		var all []time.Duration
		for range rapid.IntRange(minSamples, maxSamples-1).Draw(t, "samples") {
			d := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "latency"))
			all = append(all, d.Truncate(time.Microsecond))
			l.add(d)
		}
		slices.Sort(all)
		q := rapid.Float64Range(0.5, 1).Draw(t, "q")
		got, ok := l.quantile(q)
		want := all[len(all)-1-int(float64(len(all))*(1-q))]
		if !ok || got <= want || got > want+want/8+time.Microsecond {
			t.Fatalf("quantile %v of %d: %v, want %v or an eighth more", q, len(all), got, want)
		}
	})
	var few latencies
	for range minSamples - 1 {
		few.add(time.Second)
	}
	if d, ok := few.quantile(0.5); ok {
		t.Errorf("of too few samples: %v", d)
	}
}

// TestLatencyForgets has everything get faster: after a few thousand reads the
// slow ones are forgotten.
func TestLatencyForgets(t *testing.T) {
	var l latencies
	for range 5000 {
		l.add(time.Second)
	}
	for range 5000 {
		l.add(time.Millisecond)
	}
	if d, _ := l.quantile(0.95); d > 2*time.Millisecond {
		t.Errorf("after 5000 reads of 1 ms the 95th percentile is %v", d)
	}
}

// after is a Next that answers after a time of its choice, or with ctx. It
// chooses once at a time.
func after(choose func() time.Duration) Next {
	var mu sync.Mutex
	return func(ctx context.Context, _ chunk.ID, dst []byte, _ int64) (int, error) {
		mu.Lock()
		takes := choose()
		mu.Unlock()
		select {
		case <-time.After(takes):
			return len(dst), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// TestTimeoutFollows checks that a timeout is near what reads take, lets no
// server that got slower starve, and comes down again.
func TestTimeoutFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timeout := &Timeout{Min: 50 * time.Millisecond, Max: 10 * time.Second}
		takes := 30 * time.Millisecond
		next := after(func() time.Duration { return takes })
		dst := make([]byte, 1000)
		read := func() error {
			_, err := timeout.Read(t.Context(), next, chunk.ID{}, dst, 0)
			return err
		}
		if got := timeout.After(len(dst)); got != 10*time.Second {
			t.Errorf("while nothing is known: %v, want Max", got)
		}
		for range 100 {
			if err := read(); err != nil {
				t.Fatal(err)
			}
		}
		if got := timeout.After(len(dst)); got < 90*time.Millisecond || got > 110*time.Millisecond {
			t.Errorf("of reads that take 30 ms: %v, want some 100 ms", got)
		}
		if got := timeout.After(1 << 20); got != 10*time.Second {
			t.Errorf("of another size: %v, want Max", got)
		}
		takes = 3 * time.Second // a hundred times slower
		failed := 0
		for err := read(); err != nil; err = read() {
			if failed++; failed > 10 || !errors.Is(err, ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("failure %d: %v; want a few ErrTimeout", failed, err)
			}
		}
		if failed == 0 || timeout.Ended() != int64(failed) {
			t.Errorf("%d timeouts, %d counted", failed, timeout.Ended())
		}
		takes = 100 * time.Microsecond
		for range 8000 {
			if err := read(); err != nil {
				t.Fatal(err)
			}
		}
		if got := timeout.After(len(dst)); got != 50*time.Millisecond {
			t.Errorf("of reads that take 100 µs: %v, want Min", got)
		}
	})
}

// TestTimeoutCaller checks that the caller's end is the caller's.
func TestTimeoutCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timeout := &Timeout{Max: time.Second}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		next := after(func() time.Duration { return time.Hour })
		if _, err := timeout.Read(ctx, next, chunk.ID{}, nil, 0); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrTimeout) {
			t.Errorf("the caller's deadline: %v", err)
		}
		refused := func(context.Context, chunk.ID, []byte, int64) (int, error) { return 0, errTest }
		for range 100 { // fast failures make no timeout short
			if _, err := timeout.Read(t.Context(), refused, chunk.ID{}, nil, 0); !errors.Is(err, errTest) {
				t.Errorf("a failure: %v", err)
			}
		}
		if got := timeout.After(0); got != time.Second {
			t.Errorf("after failures only: %v, want Max", got)
		}
	})
}

// TestHedge has one read in fifty be late: it costs few more requests, and
// the tail is gone.
func TestHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 1))
		requests := 0
		next := after(func() time.Duration {
			if requests++; rng.IntN(50) == 0 {
				return time.Second
			}
			return 10*time.Millisecond + time.Duration(rng.IntN(5))*time.Millisecond
		})
		h := &Hedge{}
		dst := make([]byte, 100)
		late := 0
		const reads = 5000
		for range reads {
			begun := time.Now()
			if n, err := h.Read(t.Context(), next, chunk.ID{}, dst, 0); n != len(dst) || err != nil {
				t.Fatal(n, err)
			}
			if time.Since(begun) > 50*time.Millisecond {
				late++
			}
		}
		if late > reads/500 {
			t.Errorf("%d of %d reads were late", late, reads)
		}
		h.Wait()
		s := h.Stats()
		if extra := requests - reads; int64(extra) != s.Hedged || extra > reads*5/100+DefaultHedgeBurst || s.Won < reads/60 {
			t.Errorf("%d requests for %d reads; %+v", requests, reads, s)
		}
	})
}

// TestHedgeBudget has everything get a hundred times slower at once, which no
// second request helps against: what was saved up is all that is sent.
func TestHedgeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes, requests := 10*time.Millisecond, 0
		next := after(func() time.Duration { requests++; return takes })
		h := &Hedge{Burst: 2}
		read := func(p chunk.Priority, reads int) int {
			requests = 0
			for range reads {
				if _, err := h.Read(chunk.WithPriority(t.Context(), p), next, chunk.ID{}, make([]byte, 100), 0); err != nil {
					t.Fatal(err)
				}
			}
			h.Wait()
			return requests
		}
		read(chunk.Demand, 100)
		takes = time.Second
		if got := read(chunk.Fill, 50) + read(chunk.Prefetch, 50); got != 100 {
			t.Errorf("%d requests for 100 reads that nobody waits for", got)
		}
		if got := read(chunk.Demand, 5); got != 7 || h.Stats().Denied != 3 {
			t.Errorf("%d requests for 5 late reads, want 7; %+v", got, h.Stats())
		}
	})
}

// TestHedgeRace asks two places: what the first lacks the second may have.
func TestHedgeRace(t *testing.T) {
	ends := func(err error, takes time.Duration) Next {
		return func(ctx context.Context, _ chunk.ID, dst []byte, _ int64) (int, error) {
			select {
			case <-time.After(takes):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			if err != nil {
				return 0, err
			}
			return len(dst), nil
		}
	}
	const ms = time.Millisecond
	missing := chunk.ErrNotFound
	for name, c := range map[string]struct {
		first, second Next
		want          error
		took          time.Duration
	}{
		"first":            {ends(nil, ms), ends(errTest, 0), nil, ms},
		"second late":      {ends(nil, time.Second), ends(nil, ms), nil, 11 * ms},
		"first failed":     {ends(errTest, ms), ends(nil, ms), nil, 2 * ms},
		"first misses":     {ends(missing, ms), ends(nil, ms), nil, 2 * ms},
		"both miss":        {ends(missing, ms), ends(missing, ms), missing, 2 * ms},
		"one fails":        {ends(errTest, ms), ends(missing, ms), errTest, 2 * ms},
		"the other":        {ends(missing, ms), ends(errTest, ms), errTest, 2 * ms},
		"late, then fails": {ends(nil, 30*ms), ends(errTest, ms), nil, 30 * ms},
		"both late, fail":  {ends(errTest, 30*ms), ends(errTest, ms), errTest, 30 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &Hedge{Min: 10 * ms}
				for range 100 {
					h.seen[0].add(ms)
				}
				begun := time.Now()
				n, err := h.Race(t.Context(), c.first, c.second, chunktest.Absent, make([]byte, 10), 0)
				if took := time.Since(begun); !errors.Is(err, c.want) || (err == nil) != (n == 10) || took != c.took {
					t.Errorf("%d, %v after %v; want %v after %v", n, err, took, c.want, c.took)
				}
				h.Wait()
			})
		})
	}
}
