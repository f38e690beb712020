package main

import (
	"fmt"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// Shares of all slow waits, in per cent, from which something is worth saying.
const (
	mostly    = 50 // of a tier, of one file
	linesLong = 30 // of waits for a place in the window
)

// suggest says what could be done. cached says whether a host cache runs.
func (e *explanation) suggest(cached bool) []string {
	list := []string{}
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	_, wait := e.sums()
	if wait == 0 {
		return list
	}
	part := func(d time.Duration) int { return int(100 * d / wait) }
	var failed int64
	for _, t := range e.Tiers {
		failed += t.Failed
		share := part(t.Waits.Sum)
		if share < mostly {
			continue
		}
		switch {
		case t.Tier == chunk.Origin.String() && !cached:
			say("%d %% of the slow waits were cold reads of the origin, and no host cache runs: 'rivulet cached' keeps what was read for the next reader and the next start", share)
		case t.Tier == chunk.Origin.String():
			say("%d %% of the slow waits were cold reads of the origin: share what is read among hosts in a zone's cache ('rivulet cached --zone'), and fill it before ('rivulet publish --prime-zone')", share)
		case t.Tier == chunk.Zone.String():
			say("%d %% of the slow waits were for the zone's cache: look at the load and the network of its nodes, or keep more on this host ('rivulet cached --size')", share)
		case t.Tier == chunk.HostCache.String():
			say("%d %% of the slow waits were for the host cache, which may have had to fetch first: 'rivulet cache stats' shows its downloads, and whether it is too small", share)
		}
	}
	if failed > 0 {
		say("%d reads failed: 'rivulet status' asks the stores, and --reads shows the errors", failed)
	}
	e.suggestByReads(say)
	return list
}

// suggestByReads looks at the newest reads one by one.
func (e *explanation) suggestByReads(say func(format string, args ...any)) {
	var wait, queued, opening time.Duration
	retries := 0
	for i := range e.Reads {
		r := &e.Reads[i]
		wait += r.Wait
		queued += min(r.Queued, r.Wait)
		retries += r.Retries
		if r.Opening {
			opening += r.Wait
		}
	}
	if wait == 0 {
		return
	}
	part := func(d time.Duration) int { return int(100 * d / wait) }
	if n := part(queued); n >= linesLong {
		say("%d %% of the newest ones' waits were for a place among fetches under way: more is read at once than the store or the link brings", n)
	}
	if n := part(opening); n >= linesLong {
		say("%d %% of the newest ones' waits were for the disk to be opened, after a start of the agent: 'rivulet agent upgrade' opens disks before it hands them over", n)
	}
	if retries > 0 {
		say("the origin gave %d answers that were none during the newest ones: the agent's log says which", retries)
	}
	if len(e.Things) > 1 && part(e.Things[0].Wait) >= mostly {
		say("%d %% of the newest ones' waits were for %s", part(e.Things[0].Wait), e.Things[0].What)
	}
}
