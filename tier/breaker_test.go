package tier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

var errTest = errors.New("test")

// TestBreakerVerdicts plays strings of reads: a letter says how each ends.
func TestBreakerVerdicts(t *testing.T) {
	ends := map[rune]struct {
		err  error
		took time.Duration
	}{
		'.': {nil, 0},
		'm': {fmt.Errorf("read: %w", chunk.ErrNotFound), 0},
		'd': {&chunk.CorruptError{Reason: "test"}, 0},
		'f': {errTest, 0},
		't': {fmt.Errorf("read: %w", ErrTimeout), 0},
		'c': {context.Canceled, 10 * time.Millisecond},
		's': {context.Canceled, 2 * time.Second},
		'l': {context.DeadlineExceeded, 2 * time.Second},
		'o': {ErrOverloaded, 0},
	}
	for _, c := range []struct {
		reads string
		want  State
	}{
		{"ffff", Closed},
		{"fffff", Open},
		{"ttttt", Open},
		{"sssss", Open}, // cancelled late, as by hedges that always win
		{"lllll", Open},
		{"cccccccccccccccc", Closed}, // cancelled early
		{"oooooooooooooooo", Closed}, // another layer's
		{"mmmmmmmmmmmmmmmm", Closed},
		{"dddddddddddddddd", Closed},
		{"f.f.f.f.f", Open}, // every second one
		{"f..f..f..f..f..f..f", Closed},
		{"ffffccccf", Open},
		{"ffffmmmmm", Closed},
		{strings.Repeat(".", 100) + strings.Repeat("f", 15), Closed},
		{strings.Repeat(".", 100) + strings.Repeat("f", 16), Open},
	} {
		t.Run(c.reads, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Breaker{Pause: time.Hour, MaxPause: time.Hour}
				for _, r := range c.reads {
					pass, err := b.Allow()
					if err != nil {
						t.Fatalf("opened early: %v", err)
					}
					time.Sleep(ends[r].took)
					pass.Done(ends[r].err)
				}
				if got := b.Stats().State; got != c.want {
					t.Errorf("is %v, want %v", got, c.want)
				}
			})
		})
	}
}

// opened returns a breaker that has just opened.
func opened(t *testing.T) *Breaker {
	b := &Breaker{Failures: 1, Pause: time.Second, MaxPause: 5 * time.Second}
	pass, err := b.Allow()
	if err != nil {
		t.Fatal(err)
	}
	pass.Done(errTest)
	return b
}

func TestBreakerRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t)
		asked := 0
		next := func(context.Context, chunk.ID, []byte, int64) (int, error) { asked++; return 1, nil }
		if _, err := b.Read(t.Context(), next, chunk.ID{}, nil, 0); !errors.Is(err, ErrOpen) || asked != 0 {
			t.Errorf("open: %v, and the node was asked %d times", err, asked)
		}
		time.Sleep(1250 * time.Millisecond) // the pause, and what is random of it
		if got := b.Stats(); got.State != HalfOpen || got.Rejected != 1 || got.Opened != 1 {
			t.Errorf("after the pause: %+v", got)
		}
		probe, err := b.Allow()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Allow(); !errors.Is(err, ErrOpen) {
			t.Errorf("beside the probe: %v, want ErrOpen", err)
		}
		probe.Done(nil)
		for range 3 {
			if _, err := b.Read(t.Context(), next, chunk.ID{}, nil, 0); err != nil {
				t.Errorf("closed again: %v", err)
			}
		}
	})
}

// TestBreakerPauses has every probe fail: pauses double up to the longest.
func TestBreakerPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := opened(t)
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			want *= time.Second
			begun := time.Now()
			for {
				probe, err := b.Allow()
				if err == nil {
					probe.Done(errTest)
					break
				}
				time.Sleep(time.Millisecond)
			}
			if took := time.Since(begun); took < want || took > want*5/4+time.Millisecond {
				t.Errorf("a pause of %v, want %v to a quarter more", took, want)
			}
		}
		time.Sleep(10 * time.Second)
		probe, _ := b.Allow()
		probe.Done(nil)
		pass, _ := b.Allow()
		pass.Done(errTest) // opens, with a short pause again
		time.Sleep(1250 * time.Millisecond)
		if got := b.Stats().State; got != HalfOpen {
			t.Errorf("after a short pause: %v", got)
		}
	})
}

// TestBreakerProbes checks who may probe, and whose end counts.
func TestBreakerProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Breaker{Failures: 1}
		var early []Pass // begun while it is closed: they say nothing later
		for range 4 {
			pass, _ := b.Allow()
			early = append(early, pass)
		}
		early[0].Done(errTest)
		early[1].Done(nil)
		if got := b.Stats().State; got != Open {
			t.Errorf("an earlier read closed it: %v", got)
		}
		time.Sleep(900 * time.Millisecond)
		early[2].Done(errTest)
		time.Sleep(350 * time.Millisecond)
		gone, err := b.Allow()
		if err != nil {
			t.Fatalf("an earlier read made the pause longer: %v", err)
		}
		early[3].Done(nil)
		if got := b.Stats().State; got != HalfOpen {
			t.Errorf("an earlier read took the place of the probe: %v", got)
		}
		gone.Done(context.Canceled) // says nothing: the next one probes
		probe, err := b.Allow()
		if err != nil {
			t.Fatalf("after a probe that left: %v", err)
		}
		probe.Done(fmt.Errorf("read: %w", chunk.ErrNotFound)) // an answer
		if got := b.Stats().State; got != Closed {
			t.Errorf("after an answer: %v, want closed", got)
		}
	})
}

// TestBreakerGate has a node hang with all places taken: while the breaker is
// open a read fails at once instead of waiting in line.
func TestBreakerGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, limit := &Breaker{Failures: 1, Pause: time.Minute, MaxPause: time.Minute}, &Limit{Concurrent: 2}
		node := reader(chain(func(ctx context.Context, _ chunk.ID, _ []byte, _ int64) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}, []Layer{b.Gate(), limit, b}))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = node.ReadChunk(ctx, chunk.ID{}, nil, 0) })
		}
		synctest.Wait()
		if !b.Ready() {
			t.Error("a closed breaker is not ready")
		}
		pass, _ := b.Allow()
		pass.Done(errTest)
		begun := time.Now()
		patient, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := node.ReadChunk(patient, chunk.ID{}, nil, 0)
		if took := time.Since(begun); took != 0 || !errors.Is(err, ErrOpen) || b.Ready() {
			t.Errorf("%v after %v; want ErrOpen at once", err, took)
		}
		time.Sleep(2 * time.Minute)
		if pass, err := b.Allow(); err != nil || b.Ready() {
			t.Errorf("beside a probe (%v) it is ready", err)
		} else {
			pass.Done(nil)
		}
		if !b.Ready() {
			t.Error("it is not ready after a good probe")
		}
		cancel()
		wg.Wait()
	})
}
