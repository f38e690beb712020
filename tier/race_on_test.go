//go:build race

package tier_test

// underRace leaves out tests of tests: the race detector finds nothing in them
// that the tests do not show, and makes them ten times as slow.
const underRace = true

// A fifth of the agents, and as much less to read: the model takes a minute with all
// of them, and has one goroutine run at a time.
const (
	agentsOfHost = 10
	images       = 6
)
