//go:build !race

package tier_test

const underRace = false
