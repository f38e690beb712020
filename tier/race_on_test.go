//go:build race

package tier_test

// underRace leaves out tests of tests: the race detector finds nothing in them
// that the tests do not show, and makes them ten times as slow.
const underRace = true
