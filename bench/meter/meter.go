// Package meter stands in for the distance to a store: it delays requests, and
// counts them. The benchmark's servers share it, so that their numbers compare.
package meter

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"
)

// A Meter delays and counts requests. Any number of goroutines may use it.
type Meter struct {
	Delay     time.Duration // of each request
	Bandwidth int64         // bytes a second, of all answers together; 0: no bound

	free atomic.Int64 // when the line is free again, Unix nanoseconds

	requests, bytes, inFlight, maxInFlight atomic.Int64
}

// Begin counts a request and returns after Delay, or with the context's error.
// End must follow in either case.
func (m *Meter) Begin(ctx context.Context) error {
	m.requests.Add(1)
	now := m.inFlight.Add(1)
	for most := m.maxInFlight.Load(); now > most && !m.maxInFlight.CompareAndSwap(most, now); {
		most = m.maxInFlight.Load()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(m.Delay):
		return nil
	}
}

// End says that a request is done.
func (m *Meter) End() { m.inFlight.Add(-1) }

// tick is the shortest wait for the line: timers are no better.
const tick = time.Millisecond

// Add counts n bytes sent in answers, and returns when the line has taken them.
func (m *Meter) Add(n int) {
	m.bytes.Add(int64(n))
	if m.Bandwidth == 0 {
		return
	}
	takes := int64(n) * int64(time.Second) / m.Bandwidth
	for {
		free, now := m.free.Load(), time.Now().UnixNano()
		next := max(free, now) + takes
		if m.free.CompareAndSwap(free, next) {
			if wait := time.Duration(next - now); wait >= tick {
				time.Sleep(wait)
			}
			return
		}
	}
}

// ServeHTTP answers with the counts since the start, as JSON: requests, bytes
// and max_in_flight, the most requests that were under way at one time.
func (m *Meter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(map[string]int64{ // the client sees a short answer
		"requests": m.requests.Load(), "bytes": m.bytes.Load(), "max_in_flight": m.maxInFlight.Load(),
	})
}
