package host

import (
	"context"
	"errors"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/host/keep"
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

// TestCommit lets no client in before the host is committed, nor if it cannot be.
func TestCommit(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "a"))
	s.close(h)
	for _, want := range []error{errBroken, nil} {
		c := s.config()
		before := s.front.begins
		_, offers := s.front.last("a")
		committed := 0
		c.Commit = func() error {
			committed++
			if _, n := s.front.last("a"); n != offers+1 || s.front.begins != before {
				t.Errorf("offered %d times, begun %d times, before it is committed", n-offers, s.front.begins-before)
			}
			return want
		}
		h, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Recover(t.Context(), &keep.Inherited{}); !errors.Is(err, want) || committed != 1 {
			t.Errorf("recovered: %v, committed %d times", err, committed)
		}
		if begun := s.front.begins > before; begun != (want == nil) {
			t.Errorf("commit %v, begun %v", want, begun)
		}
		s.close(h)
	}
}
