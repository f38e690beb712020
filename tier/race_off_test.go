//go:build !race

package tier_test

const (
	underRace    = false
	agentsOfHost = 50
	images       = 24
)
