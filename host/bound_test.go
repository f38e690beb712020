package host

import (
	"context"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

// TestBoundOfEachStore bounds what is asked of two stores apart.
func TestBoundOfEachStore(t *testing.T) {
	s := newSite(t)
	c := s.config()
	bounds := map[string]int{} // disks, by store
	open := c.Open
	c.Open = func(ctx context.Context, url string) (Source, error) {
		src, err := open(ctx, url)
		src.Bound = func(src chunk.Source, _ string) chunk.Source {
			bounds[url]++
			return src
		}
		return src, err
	}
	c.State = ""
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.publish("tree2", "two")
	other := spec("tree", "c")
	other.Store = "other"
	s.attach(h, spec("tree", "a"), spec("tree2", "b"), other)
	if bounds["memory"] != 2 || bounds["other"] != 1 || s.opens.Load() != 2 {
		t.Errorf("disks by store that have its bound: %v; stores opened %d times", bounds, s.opens.Load())
	}
	s.close(h)
}
