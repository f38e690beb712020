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
		early, _ := b.Allow()
		pass, _ := b.Allow()
		pass.Done(errTest)
		early.Done(nil) // begun while it was closed: no probe
		if got := b.Stats().State; got != Open {
			t.Errorf("an earlier read closed it: %v", got)
		}
		time.Sleep(2 * time.Second)
		gone, err := b.Allow()
		if err != nil {
			t.Fatal(err)
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

// TestBreakerGate has a node hang with all places taken: once the breaker is
// open, a read fails at once instead of waiting in line.
func TestBreakerGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, limit := &Breaker{Failures: 2, Pause: time.Minute, MaxPause: time.Minute}, &Limit{Concurrent: 4}
		hung := reader(chain(func(ctx context.Context, _ chunk.ID, _ []byte, _ int64) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}, []Layer{b.Gate(), limit, b, &Timeout{Max: 10 * time.Second}}))
		read := func() (time.Duration, error) {
			begun := time.Now()
			_, err := hung.ReadChunk(t.Context(), chunk.ID{}, nil, 0)
			return time.Since(begun), err
		}
		var wg sync.WaitGroup
		hang := func(reads int) {
			for range reads {
				wg.Go(func() { _, _ = read() })
			}
			time.Sleep(time.Second)
		}
		hang(2)
		time.Sleep(5 * time.Second)
		hang(2)
		time.Sleep(4 * time.Second) // the first two have timed out, the others hang
		hang(6)                     // refused at the gate
		if s := limit.Stats(); s.InFlight != 2 || s.Waiting != 0 {
			t.Errorf("%d reads hang and %d wait in line, want 2 and 0", s.InFlight, s.Waiting)
		}
		if took, err := read(); took != 0 || !errors.Is(err, ErrOpen) {
			t.Errorf("a read of a hung node ended after %v: %v; want ErrOpen at once", took, err)
		}
		if b.Ready() {
			t.Error("an open breaker is ready")
		}
		wg.Wait()
	})
}
