package cached

import (
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

// TestPlaces fills the places from the least urgent on: each priority finds some.
func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		most int
		want [chunk.Priorities]int // of demand, prefetch and fill that find a place
	}{
		{16, [...]int{8, 4, 4}},
		{1024, [...]int{512, 256, 256}},
		{3, [...]int{2, 0, 1}},
		{1, [...]int{0, 0, 1}},
	} {
		l := places{most: c.most}
		for p := chunk.Fill; ; p-- {
			n := 0
			for ; l.take(p); n++ {
			}
			if n != c.want[p] {
				t.Errorf("of %d places %d are for %v, want %d", c.most, n, p, c.want[p])
			}
			if p == chunk.Demand {
				break
			}
		}
		if l.taken[chunk.Fill] > 0 {
			l.free(chunk.Fill)
			if !l.take(chunk.Demand) {
				t.Errorf("of %d places none is free after one was given back", c.most)
			}
		}
	}
}
