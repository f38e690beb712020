package tier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/rivuletfs/rivulet/chunk"
)

// A line is reads that wait for a Limit, and the order they were let through in.
type line struct {
	t     *testing.T
	limit *Limit
	wg    sync.WaitGroup
	mu    sync.Mutex
	order []string
}

// ask has a read of that name wait its turn, and take a millisecond then. It
// returns when the read is in line.
func (l *line) ask(ctx context.Context, name string) {
	l.wg.Go(func() {
		g, err := l.limit.Acquire(ctx, 0)
		if err != nil {
			l.t.Errorf("%s: %v", name, err)
			return
		}
		l.mu.Lock()
		l.order = append(l.order, name)
		l.mu.Unlock()
		time.Sleep(time.Millisecond)
		g.Release(0)
	})
	synctest.Wait()
}

// served returns the names in order, when all have been let through.
func (l *line) served() []string {
	l.wg.Wait()
	if s := l.limit.Stats(); s.InFlight != 0 || s.Waiting != 0 {
		l.t.Errorf("at the end %d in flight, %d waiting", s.InFlight, s.Waiting)
	}
	return l.order
}

// hold takes a place of l until the function is called that it returns.
func hold(t *testing.T, l *Limit, p chunk.Priority) func() {
	t.Helper()
	g, err := l.Acquire(chunk.WithPriority(context.Background(), p), 0)
	if err != nil {
		t.Fatal(err)
	}
	return func() { g.Release(0) }
}

func TestLimitShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{t: t, limit: &Limit{Concurrent: 1}}
		release := hold(t, l.limit, chunk.Demand)
		for range 60 { // the least urgent first in line
			for p := chunk.Fill; p <= chunk.Fill; p-- {
				l.ask(chunk.WithPriority(context.Background(), p), p.String())
			}
		}
		release()
		order := l.served()
		if order[0] != "demand" {
			t.Errorf("%s was served first", order[0])
		}
		for i := 0; i+16 <= 80; i += 16 {
			got := map[string]int{}
			for _, name := range order[i : i+16] {
				got[name]++
			}
			if got["demand"] != 12 || got["prefetch"] != 3 || got["fill"] != 1 {
				t.Errorf("of reads %d to %d: %v; want 12, 3, 1", i, i+16, got)
			}
		}
	})
}

// TestLimitStarves checks that a fill is served however much demand there is.
func TestLimitStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limit{Concurrent: 4}
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for {
					g, err := l.Acquire(ctx, 0)
					if err != nil {
						return
					}
					time.Sleep(time.Millisecond)
					g.Release(0)
				}
			})
		}
		synctest.Wait()
		for p := range chunk.Priority(chunk.Priorities) {
			begun := time.Now()
			hold(t, l, p)()
			if took := time.Since(begun); took > 20*time.Millisecond {
				t.Errorf("%v waited %v", p, took)
			}
		}
		stop()
		wg.Wait()
	})
}

func TestLimitFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{t: t, limit: &Limit{Concurrent: 1}}
		release := hold(t, l.limit, chunk.Demand)
		for i := range 5 {
			l.ask(WithFlow(context.Background(), "greedy"), fmt.Sprint("greedy ", i))
		}
		l.ask(WithFlow(context.Background(), "b"), "b")
		l.ask(context.Background(), "none")
		l.ask(WithFlow(context.Background(), "b"), "b again")
		release()
		want := []string{"greedy 0", "b", "none", "greedy 1", "b again", "greedy 2", "greedy 3", "greedy 4"}
		if got := l.served(); !slices.Equal(got, want) {
			t.Errorf("served in the order %q, want %q", got, want)
		}
	})
}

// TestLimitBackground checks that reads which hang leave places to a guest, if
// nobody waits for them.
func TestLimitBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limit{Concurrent: 8}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		hang := func(p chunk.Priority, reads int) {
			for range reads {
				wg.Go(func() {
					g, err := l.Acquire(chunk.WithPriority(ctx, p), 0)
					if err == nil {
						<-ctx.Done()
					}
					g.Release(0)
				})
			}
			synctest.Wait()
		}
		for _, c := range []struct {
			p              chunk.Priority
			reads, expects int
		}{{chunk.Fill, 20, 2}, {chunk.Prefetch, 20, 4}, {chunk.Demand, 3, 7}} {
			if hang(c.p, c.reads); l.Stats().InFlight != c.expects {
				t.Errorf("with %d %vs more: %d in flight, want %d", c.reads, c.p, l.Stats().InFlight, c.expects)
			}
		}
		hold(t, l, chunk.Demand)()
		cancel()
		wg.Wait()
		for p := range chunk.Priority(chunk.Priorities) { // one place is for all
			hold(t, &Limit{Concurrent: 1}, p)()
		}
	})
}

func TestLimitRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{t: t, limit: &Limit{Concurrent: 1, Queue: 3}}
		release := hold(t, l.limit, chunk.Demand)
		for range 5 { // these wait, however long the line is
			l.ask(context.Background(), "demand")
		}
		l.ask(chunk.WithPriority(context.Background(), chunk.Prefetch), "prefetch")
		_, err := l.limit.Acquire(chunk.WithPriority(context.Background(), chunk.Fill), 0)
		if !errors.Is(err, ErrOverloaded) {
			t.Errorf("a fill at the end of a long line: %v, want ErrOverloaded", err)
		}
		release()
		l.served()
		if s := l.limit.Stats(); s.Refused != 1 || s.Passed != 7 || s.Waited != 6 {
			t.Errorf("%+v; want 1 refused, 7 passed, 6 of them after a wait", s)
		}
	})
}

func TestLimitRaises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{t: t, limit: &Limit{Concurrent: 1}}
		release := hold(t, l.limit, chunk.Demand)
		u := chunk.NewUrgency(chunk.Fill)
		l.ask(chunk.WithPriority(context.Background(), chunk.Prefetch), "prefetch")
		l.ask(chunk.WithUrgency(context.Background(), u), "raised")
		l.ask(context.Background(), "demand")
		u.Raise(chunk.Demand)
		release()
		want := []string{"demand", "raised", "prefetch"}
		if got := l.served(); !slices.Equal(got, want) {
			t.Errorf("served in the order %q, want %q", got, want)
		}
		u.Raise(chunk.Demand) // the read has ended: nothing
	})
}

// TestLimitRaiseFinds checks that a read is raised into a place that is free for
// demand alone.
func TestLimitRaiseFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limit{Concurrent: 2}
		defer hold(t, l, chunk.Prefetch)()
		u := chunk.NewUrgency(chunk.Prefetch)
		time.AfterFunc(time.Second, func() { u.Raise(chunk.Demand) })
		begun := time.Now()
		g, err := l.Acquire(chunk.WithUrgency(context.Background(), u), 0)
		if err != nil || time.Since(begun) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		g.Release(0)
	})
}

func TestLimitCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limit{Concurrent: 1}
		release := hold(t, l, chunk.Demand)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := l.Acquire(ctx, 0); !errors.Is(err, context.Canceled) {
					t.Errorf("left the line: %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		if s := l.Stats(); s.Waiting != 0 || s.Abandoned != 100 {
			t.Errorf("%+v; want nobody in line, 100 abandoned", s)
		}
		if _, err := l.Acquire(ctx, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		release()
		hold(t, l, chunk.Demand)()
	})
}

// An entry is a read that was let through.
type entry struct {
	at    time.Duration
	bytes int
}

// TestLimitRate draws reads and checks that no stretch of time, wherever it
// begins, sees more than the buckets allow, and that no token is wasted.
func TestLimitRate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		requests := Bucket{float64(rapid.IntRange(1, 1000).Draw(rt, "requests")), float64(rapid.IntRange(0, 20).Draw(rt, "burst"))}
		rate := Bucket{float64(rapid.IntRange(0, 1<<20).Draw(rt, "bytes")), float64(rapid.IntRange(1, 1<<20).Draw(rt, "byte burst"))}
		seed := rapid.Uint64().Draw(rt, "seed")
		synctest.Test(t, func(t *testing.T) {
			l := &Limit{Concurrent: 10, Requests: requests, Bytes: rate}
			if err := drive(l, seed); err != nil {
				rt.Fatal(err)
			}
		})
	})
}

// drive sends 200 reads, of which some are abandoned, and checks what passed.
func drive(l *Limit, seed uint64) error {
	var mu sync.Mutex
	var passed []entry
	var wg sync.WaitGroup
	rng := rand.New(rand.NewPCG(seed, 0))
	begun, largest := time.Now(), 0
	for range 200 {
		bytes, patience := rng.IntN(1<<18), time.Duration(rng.Int64N(int64(time.Minute)))
		delay, takes := time.Duration(rng.Int64N(int64(2*time.Second))), time.Duration(rng.Int64N(int64(100*time.Millisecond)))
		p, flow := chunk.Priority(rng.IntN(chunk.Priorities)), fmt.Sprint(rng.IntN(4))
		largest = max(largest, bytes)
		wg.Go(func() {
			time.Sleep(delay)
			ctx, cancel := context.WithTimeout(chunk.WithPriority(WithFlow(context.Background(), flow), p), patience)
			defer cancel()
			g, err := l.Acquire(ctx, bytes)
			if err != nil {
				return
			}
			mu.Lock()
			passed = append(passed, entry{time.Since(begun), bytes})
			mu.Unlock()
			time.Sleep(takes)
			g.Release(bytes)
		})
	}
	wg.Wait()
	if s := l.Stats(); s.InFlight != 0 || s.Waiting != 0 || s.Passed != int64(len(passed)) || s.Passed+s.Abandoned+s.Refused != 200 {
		return fmt.Errorf("at the end %+v, and %d of 200 passed", s, len(passed))
	}
	for p := range l.queue.classes {
		if c := &l.queue.classes[p]; c.turn != nil || len(c.flows) != 0 {
			return fmt.Errorf("at the end %d flows are left", len(c.flows))
		}
	}
	return within(l, passed, largest)
}

// within checks every stretch of time between two reads.
func within(l *Limit, passed []entry, largest int) error {
	slices.SortFunc(passed, func(a, b entry) int { return int(a.at - b.at) })
	for i := range passed {
		bytes := 0
		for j := i; j < len(passed); j++ {
			bytes += passed[j].bytes
			s := (passed[j].at - passed[i].at).Seconds()
			if most := l.requests.Burst + s*l.requests.PerSecond; float64(j-i+1) > most+1e-6 {
				return fmt.Errorf("%d requests in %v s, want at most %v", j-i+1, s, most)
			}
			if most := l.bytes.Burst + s*l.bytes.PerSecond + float64(largest); l.Bytes.PerSecond > 0 && float64(bytes) > most+1e-6 {
				return fmt.Errorf("%d bytes in %v s, want at most %v", bytes, s, most)
			}
		}
	}
	return nil
}

// TestLimitRateIsUsed checks that reads pass as fast as they may, and that what
// was paid for and did not come is given back.
func TestLimitRateIsUsed(t *testing.T) {
	for name, c := range map[string]struct {
		limit *Limit
		came  int // bytes, of the 1000 that each of 101 reads asks for
		want  time.Duration
	}{
		"requests":       {&Limit{Requests: Bucket{10, 1}}, 1000, 10 * time.Second},
		"requests burst": {&Limit{Requests: Bucket{10, 51}}, 1000, 5 * time.Second},
		"bytes":          {&Limit{Bytes: Bucket{1000, 1000}}, 1000, 99*time.Second + time.Millisecond},
		"bytes half":     {&Limit{Concurrent: 1, Bytes: Bucket{1000, 1000}}, 500, 49*time.Second + time.Millisecond},
		"no bound":       {&Limit{}, 1000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				for range 101 {
					g, err := c.limit.Acquire(context.Background(), 1000)
					if err != nil {
						t.Fatal(err)
					}
					g.Release(c.came)
				}
				if took := time.Since(begun); took < c.want || took > c.want+time.Second {
					t.Errorf("101 reads took %v, want %v", took, c.want)
				}
			})
		})
	}
}

// TestLimitGivesBack has a read leave at the moment at which it is let through:
// then its place and its token are for the next one.
func TestLimitGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limit{Concurrent: 1, Requests: Bucket{PerSecond: 1, Burst: 1}, Bytes: Bucket{PerSecond: 10, Burst: 10}}
		hold(t, l, chunk.Demand)()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := l.Acquire(ctx, 10); !errors.Is(err, context.Canceled) {
				t.Errorf("left: %v", err)
			}
		})
		synctest.Wait()
		l.mu.Lock()
		cancel() // it sees this first, and that it was let through when it gets the lock
		l.requests.Add(time.Now(), 1)
		l.dispatch()
		l.mu.Unlock()
		wg.Wait()
		begun := time.Now()
		hold(t, l, chunk.Demand)()
		if took := time.Since(begun); took != 0 {
			t.Errorf("the next one waited %v", took)
		}
		if s := l.Stats(); s.Passed != 2 || s.Abandoned != 1 {
			t.Errorf("%+v; want 2 passed, 1 abandoned", s)
		}
	})
}

// TestQueueCredit has fills wait at a bound of theirs for long: that earns them
// no more than the next place.
func TestQueueCredit(t *testing.T) {
	var q queue
	for range 300 {
		q.push(&waiter{priority: chunk.Demand}, "")
	}
	for range 50 {
		q.push(&waiter{priority: chunk.Fill}, "")
	}
	serve := func(reads int, may func(chunk.Priority) bool) (fills int) {
		for range reads {
			w := q.peek(may)
			q.pop(w)
			if w.priority == chunk.Fill {
				fills++
			}
		}
		return fills
	}
	if got := serve(200, func(p chunk.Priority) bool { return p == chunk.Demand }); got != 0 {
		t.Errorf("%d fills were served that may not be", got)
	}
	if got := serve(39, func(chunk.Priority) bool { return true }); got < 3 || got > 4 {
		t.Errorf("%d fills among 39 reads, want 1 of 13", got)
	}
}

func TestLimitAllocations(t *testing.T) {
	next := func(_ context.Context, _ chunk.ID, dst []byte, _ int64) (int, error) { return len(dst), nil }
	ctx := chunk.WithPriority(WithFlow(context.Background(), "disk"), chunk.Prefetch)
	dst := make([]byte, 100)
	for name, l := range map[string]Layer{
		"limit":   &Limit{Concurrent: 4},
		"buckets": &Limit{Concurrent: 4, Requests: Bucket{PerSecond: 1e9}, Bytes: Bucket{PerSecond: 1e12}},
		"breaker": &Breaker{},
		"observe": Observe("test", func(context.Context, Event) {}),
	} {
		src := reader(chain(next, []Layer{l}))
		if n := testing.AllocsPerRun(100, func() { _, _ = src.ReadChunk(ctx, chunk.ID{}, dst, 0) }); n != 0 {
			t.Errorf("%s: %v allocations a read, want none", name, n)
		}
	}
}

// TestTryAcquire takes all the places from the least urgent priority on: each
// finds some, and nobody waits.
func TestTryAcquire(t *testing.T) {
	for _, c := range []struct {
		most int
		want [chunk.Priorities]int // of demand, prefetch and fill that find a place
	}{
		{16, [...]int{8, 4, 4}},
		{1024, [...]int{512, 256, 256}},
		{3, [...]int{2, 0, 1}},
		{1, [...]int{0, 0, 1}},
	} {
		l := &Limit{Concurrent: c.most}
		var last Grant
		for p := chunk.Fill; ; p-- {
			n := 0
			for ; ; n++ {
				g, ok := l.TryAcquire(p, 0)
				if !ok {
					break
				}
				last = g
			}
			if n != c.want[p] {
				t.Errorf("of %d places %d are for %v, want %d", c.most, n, p, c.want[p])
			}
			if p == chunk.Demand {
				break
			}
		}
		last.Release(0)
		if _, ok := l.TryAcquire(chunk.Demand, 0); !ok {
			t.Errorf("of %d places none is free after one was given back", c.most)
		}
		if s := l.Stats(); s.Waiting != 0 || s.InFlight != c.most {
			t.Errorf("of %d places: %+v", c.most, s)
		}
	}
	l := &Limit{Requests: Bucket{PerSecond: 1, Burst: 1}}
	if _, ok := l.TryAcquire(chunk.Demand, 0); !ok {
		t.Error("a full bucket lets nobody through")
	}
	if _, ok := l.TryAcquire(chunk.Demand, 0); ok {
		t.Error("an empty bucket lets somebody through")
	}
}
