//go:build race

package gc_test

// underRace shortens what one goroutine at a time does: the race detector finds
// nothing in that, and makes it ten times as slow.
const underRace = true
