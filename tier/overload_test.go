package tier_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The worst case of On-demand Container Loading (section 4.2): the caches are
// empty, and everything starts at once. The origin would see hundreds of times
// what it is used to, get slower, and hold up the starts that fill the caches.
const (
	hosts      = 10 // with agentsOfHost each
	chunksOf   = 60 // an image
	demanded   = 18 // of them, by a guest that starts
	guests     = 3  // reads of a guest's at once
	background = 6  // prefetches of an agent's at once, and as many fills
	attached   = time.Minute
	patience   = 30 * time.Second // of a guest's read, with its retries

	originRate  = 400 // requests a second that the origin allows
	originBurst = 50
	capacity    = 100 // requests at once from which on the origin gets slower

	slowestStart = 16 * time.Second // 500 at once while the origin has its trouble
	recovered    = 0.98             // reads that caches serve once they are filled
)

// removed says what is taken out of what keeps the origin calm.
type removed struct{ bucket, concurrency, coalescing, priority bool }

// TestOverload has 500 agents start with empty caches, and again when the hosts
// have lost theirs; under the race detector there are fewer.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if err := overload(t, removed{}); err != nil {
			t.Error(err)
		}
	})
}

// TestOverloadNotices takes one thing out at a time, and expects the test above
// to say so.
func TestOverloadNotices(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("a test of the test")
	}
	for _, c := range []struct {
		name string
		removed
		want string
	}{
		{"no token bucket", removed{bucket: true}, "more requests than it allows"},
		{"no bound of concurrency", removed{concurrency: true}, "reads were not answered"},
		{"no coalescing", removed{coalescing: true}, "left the origin more than once"},
		{"no priorities", removed{priority: true}, "the slowest start took"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := overload(t, c.removed)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the test says %v, not that %s", err, c.want)
				}
			})
		})
	}
}

// overload plays both storms and returns what should not have happened.
func overload(t *testing.T, out removed) error {
	w := newWorld(out)
	defer w.close()
	first := w.play(1)
	t.Logf("caches empty: %v", first)
	for _, h := range w.hosts {
		clear(h.cache.held)
	}
	clear(w.origin.sent)
	second := w.play(2)
	t.Logf("hosts empty, zone full: %v", second)
	var errs []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(w.origin.exceeded > 0, "the origin saw %d more requests than it allows", w.origin.exceeded)
	wrong(first.failed+second.failed > 0, "%d reads were not answered", first.failed+second.failed)
	wrong(len(w.origin.twice) > 0, "%d times a chunk left the origin more than once for a host", len(w.origin.twice))
	wrong(first.slowest > slowestStart, "the slowest start took %v, want %v at most", first.slowest, slowestStart)
	wrong(second.hits() < recovered, "the caches serve %.3f of the reads, want %v", second.hits(), recovered)
	return errors.Join(errs...)
}
