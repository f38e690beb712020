package histogram

import (
	"sync"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	var all sync.WaitGroup
	for i := range Buckets {
		all.Go(func() { // each bound, and what lies just below
			h.Add(Bound(i), 2)
			h.Add(Bound(i)-1, 3)
		})
	}
	h.Add(-time.Second, 1)
	all.Wait()
	c := h.Counts()
	if c.Total() != 5*Buckets+1 {
		t.Errorf("%d durations", c.Total())
	}
	for i, n := range c.Buckets {
		want := int64(5) // the bound of the one before, and what lies below its own
		switch i {
		case 0:
			want = 3 + 1
		case Buckets - 1:
			want = 5 + 2
		}
		if n != want {
			t.Errorf("bucket %d, below %v, has %d, want %d", i, Bound(i), n, want)
		}
	}
	var sum time.Duration
	for i := range Buckets {
		sum += 2*Bound(i) + 3*(Bound(i)-1)
	}
	if c.Sum != sum {
		t.Errorf("%v in all, want %v", c.Sum, sum)
	}
	if allocs := testing.AllocsPerRun(10, func() { h.Add(time.Second, 1) }); allocs != 0 {
		t.Errorf("counting allocates %v times", allocs)
	}
}
