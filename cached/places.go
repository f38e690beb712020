package cached

import "github.com/rivuletfs/rivulet/chunk"

// Shares of places: so many may be taken by downloads that no guest waits for,
// as in a tier.Limit, so that one which comes finds a place.
const (
	backgroundShare = 2 // prefetch and fill together: 1 of so many, at least 1
	fillShare       = 4 // fill: 1 of so many, at least 1
)

// places bounds the goroutines of downloads, those that wait in line included.
// Server.mu guards it.
type places struct {
	most  int
	taken [chunk.Priorities]int
}

// take takes a place for a download of priority p, if there is one.
func (l *places) take(p chunk.Priority) bool {
	background := l.taken[chunk.Prefetch] + l.taken[chunk.Fill]
	switch {
	case l.taken[chunk.Demand]+background >= l.most,
		p != chunk.Demand && background >= max(1, l.most/backgroundShare),
		p == chunk.Fill && l.taken[chunk.Fill] >= max(1, l.most/fillShare):
		return false
	}
	l.taken[p]++
	return true
}

// free gives a place back that was taken for priority p.
func (l *places) free(p chunk.Priority) { l.taken[p]-- }
