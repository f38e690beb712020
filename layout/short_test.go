package layout

import "testing"

// sequential skips a long test of code that has one goroutine where tests are to
// be short: under the race detector, which can find nothing in it.
func sequential(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and of one goroutine")
	}
}
