package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/cache/evict/simulate"
)

const (
	sampleTime = 5 * time.Second
	printEach  = 6 // samples

	mostOff    = 0.02 // of the hit ratio
	mostGrowth = 1.15 // of the daemon's memory, from the second quarter of the calm time to the last
)

// A watch samples what the processes take.
type watch struct {
	daemon  *daemon
	traffic *traffic
	begin   time.Time
	samples []sample
}

type sample struct {
	at     time.Duration
	daemon use
	reader use
}

func (w *watch) run(ctx context.Context) error {
	fmt.Println("| s | reads | from the origin | daemon's RSS, KiB | its threads | its descriptors | clients' RSS, KiB |")
	fmt.Println("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	tick := time.NewTicker(sampleTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s := sample{time.Since(w.begin), w.daemon.used(), used("self")}
		w.samples = append(w.samples, s)
		if len(w.samples)%printEach == 0 {
			fmt.Printf("| %.0f | %d | %d | %d | %d | %d | %d |\n", s.at.Seconds(), w.traffic.reads.Load(), w.traffic.origin.requests.Load(),
				s.daemon.rss, s.daemon.threads, s.daemon.files, s.reader.rss)
		}
	}
}

// memory returns the daemon's mean RSS between two times, in KiB, while it was alive.
func (w *watch) memory(from, to time.Duration) float64 {
	sum, n := 0.0, 0
	for _, s := range w.samples {
		if s.at >= from && s.at < to && s.daemon.rss > 0 {
			sum += float64(s.daemon.rss)
			n++
		}
	}
	return sum / math.Max(float64(n), 1)
}

// report prints the summary, and returns what is not as it should be.
func (w *watch) report(o *options, calm time.Duration) error {
	t := w.traffic
	measured, predicted, n := t.hitRatios(func(trace *simulate.Trace, warm int) simulate.Result {
		return simulate.Run(evict.New(), w.daemon.size, trace, warm)
	})
	before, after := w.memory(calm/4, calm/2), w.memory(calm*3/4, calm)
	fmt.Printf("\n%d reads in %v, none failed; %d took more than a second, the slowest %v\n", t.reads.Load(), o.length, t.slow.Load(), time.Duration(t.slowest.Load()).Round(time.Millisecond))
	fmt.Printf("cache of %d MiB for %d MiB in use; %d chunks renewed; killed %d times, frozen %d times\n", w.daemon.size>>20, t.inUse()>>20, t.renewed, w.daemon.kills, w.daemon.stalls)
	fmt.Printf("hit ratio of %d calm requests: %.4f, simulated %.4f\n", n, measured, predicted)
	fmt.Printf("daemon's RSS in the calm time: second quarter %.0f KiB, last quarter %.0f KiB; with faults %.0f KiB\n", before, after, w.memory(calm, o.length))
	var errs []error
	if n == 0 {
		errs = append(errs, errors.New("too few requests to compare hit ratios"))
	}
	if math.Abs(measured-predicted) > mostOff {
		errs = append(errs, fmt.Errorf("hit ratio %.4f, the simulator's is %.4f", measured, predicted))
	}
	if after > before*mostGrowth {
		errs = append(errs, fmt.Errorf("the daemon grew from %.0f to %.0f KiB", before, after))
	}
	return errors.Join(errs...)
}
