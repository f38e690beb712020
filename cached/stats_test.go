package cached

import (
	"testing"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
)

// TestNumbers has a number for each name.
func TestNumbers(t *testing.T) {
	if n := len((Stats{}).numbers()); n != len(wire.StatNames) {
		t.Errorf("%d numbers for %d names", n, len(wire.StatNames))
	}
}
