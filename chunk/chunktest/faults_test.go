package chunktest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// held is the simplest source.
type held map[chunk.ID][]byte

func (h held) Fetch(_ context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	b, ok := h[id]
	if !ok {
		return 0, chunk.ErrNotFound
	}
	return copy(dst, b[min(off, int64(len(b))):]), nil
}

var object = Random(1, 10_000, chunk.MinFrameSize)

func source() held { return held{object.ID: object.Bytes} }

// outcomes fetches n times and tells what was wrong each time: an error, a
// short answer, a changed one.
func outcomes(src chunk.Source, n int) []string {
	var list []string
	dst := make([]byte, len(object.Bytes))
	for range n {
		got, err := src.Fetch(context.Background(), object.ID, dst, 0)
		switch {
		case errors.Is(err, ErrInjected):
			list = append(list, "error")
		case err != nil:
			list = append(list, err.Error())
		case got < len(dst):
			list = append(list, "short")
		case !bytes.Equal(dst, object.Bytes):
			list = append(list, "changed")
		default:
			list = append(list, "")
		}
	}
	return list
}

func TestFaults(t *testing.T) {
	for fault, with := range map[string]func(every int, seed uint64) chunk.Source{
		"error": func(every int, seed uint64) chunk.Source { return &Flaky{Source: source(), Every: every, Seed: seed} },
		"short": func(every int, seed uint64) chunk.Source {
			return &Truncated{Source: source(), Every: every, Seed: seed}
		},
		"changed": func(every int, seed uint64) chunk.Source { return &Corrupt{Source: source(), Every: every, Seed: seed} },
	} {
		count := func(list []string) (n int) {
			for _, o := range list {
				if o != "" && o != fault {
					t.Errorf("%s: got %q", fault, o)
				}
				if o != "" {
					n++
				}
			}
			return n
		}
		a := outcomes(with(4, 1), 1000)
		if n := count(a); n < 200 || n > 300 {
			t.Errorf("%s: 1 in 4 of 1000 requests is %d", fault, n)
		}
		if n := count(outcomes(with(1, 1), 10)); n != 10 {
			t.Errorf("%s: 1 in 1 of 10 requests is %d", fault, n)
		}
		if n := count(outcomes(with(0, 1), 10)); n != 0 {
			t.Errorf("%s: switched off, and %d requests of 10 are hit", fault, n)
		}
		same := func(b []string) bool {
			for i := range a {
				if a[i] != b[i] {
					return false
				}
			}
			return true
		}
		if !same(outcomes(with(4, 1), 1000)) || same(outcomes(with(4, 2), 1000)) {
			t.Errorf("%s: requests are not chosen by the seed", fault)
		}
	}
}

func TestHung(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	src := &Hung{Source: source(), Every: 1}
	for range 3 {
		wg.Go(func() {
			if n, err := src.Fetch(ctx, object.ID, make([]byte, 10), 0); n != 0 || !errors.Is(err, context.Canceled) {
				t.Errorf("%d, %v; want the context's error", n, err)
			}
		})
	}
	cancel()
	wg.Wait()
}

// TestSlow checks the reckoning of the link, not the clock.
func TestSlow(t *testing.T) {
	s := &Slow{Source: source(), Bandwidth: 1000}
	start := time.Now()
	for i, want := range []time.Duration{time.Second, 3 * time.Second} {
		if got := s.send(start, 1000*(i+1)).Sub(start); got != want {
			t.Errorf("answer %d arrives after %v, want %v", i, got, want)
		}
	}
	if got := s.send(start.Add(time.Minute), 500).Sub(start); got != time.Minute+time.Second/2 {
		t.Errorf("on an idle link: %v", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	slow := &Slow{Source: source(), Latency: time.Hour}
	if n, err := slow.Fetch(ctx, object.ID, make([]byte, 10), 0); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v; want the context's error", n, err)
	}
}

func TestCounting(t *testing.T) {
	c := &Counting{Source: &Hung{Source: source(), Every: 1}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { _, _ = c.Fetch(ctx, object.ID, make([]byte, 10), 0) })
	}
	for c.InFlight.Load() < 5 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	wg.Wait()
	c.Source = source()
	if _, err := c.Fetch(context.Background(), object.ID, make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
	if c.Requests.Load() != 6 || c.Bytes.Load() != 10 || c.MaxInFlight.Load() != 5 || c.InFlight.Load() != 0 {
		t.Errorf("%d requests, %d bytes, %d at once, %d in flight; want 6, 10, 5, 0",
			c.Requests.Load(), c.Bytes.Load(), c.MaxInFlight.Load(), c.InFlight.Load())
	}
}

func TestPrinting(t *testing.T) {
	src := &Counting{Source: &Slow{Latency: 5 * time.Millisecond, Source: &Flaky{Every: 3, Seed: 1,
		Source: &Corrupt{Every: 4, Seed: 2, Source: &Truncated{Every: 5, Seed: 3, Source: &Hung{Every: 6, Seed: 4, Source: source()}}}}}}
	const want = "counting(slow(5ms, flaky(1 in 3, seed 1, corrupt(1 in 4, seed 2, truncated(1 in 5, seed 3, hung(1 in 6, seed 4, chunktest.held))))))"
	if got := src.String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestRandom(t *testing.T) {
	for _, o := range Objects(1) {
		if _, err := chunk.Verify(o.ID, o.Bytes); err != nil {
			t.Error(err)
		}
	}
	a, b, c := Random(1, 1000, chunk.FrameSize), Random(1, 1000, chunk.FrameSize), Random(2, 1000, chunk.FrameSize)
	if a.ID != b.ID || a.ID == c.ID {
		t.Error("chunks are not chosen by the seed")
	}
}
