//go:build !race

package chunk_test

// raceEnabled: see race_test.go.
const raceEnabled = false
