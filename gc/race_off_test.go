//go:build !race

package gc_test

const underRace = false
