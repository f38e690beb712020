package telemetry

import "github.com/rivuletfs/rivulet/tier"

// The metrics of bounds.
var (
	limitSet set

	limitPassed    = limitSet.counter("limit_passed_total", "What a bound let through, at once or later.", "limit")
	limitWaited    = limitSet.counter("limit_waited_total", "Of that: not at once.", "limit")
	limitAbandoned = limitSet.counter("limit_abandoned_total", "What gave up waiting for its turn.", "limit")
	limitRefused   = limitSet.counter("limit_refused_total", "Background work that was refused as the line was long.", "limit")
	limitInFlight  = limitSet.gauge("limit_in_flight", "What is under way behind a bound: origin, downloads or zone.", "limit")
	limitWaiting   = limitSet.gauge("limit_waiting", "What waits in line.", "limit")
)

func (ch sink) limit(name string, s *tier.LimitStats) {
	ch.put(limitPassed, s.Passed, name)
	ch.put(limitWaited, s.Waited, name)
	ch.put(limitAbandoned, s.Abandoned, name)
	ch.put(limitRefused, s.Refused, name)
	ch.put(limitInFlight, int64(s.InFlight), name)
	ch.put(limitWaiting, int64(s.Waiting), name)
}
