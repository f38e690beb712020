package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// nothing is a source that holds nothing.
type nothing struct{}

func (nothing) Fetch(context.Context, chunk.ID, []byte, int64) (int, error) {
	return 0, chunk.ErrNotFound
}

// TestOriginLimit reads through what the flags make, from two disks.
func TestOriginLimit(t *testing.T) {
	for name, c := range map[string]struct {
		limit originLimit
		near  bool
		reads int
		took  time.Duration
	}{
		"a directory":            {originLimit{}, true, 4000, 0},
		"far":                    {originLimit{}, false, 2200, time.Second},
		"far, no bound":          {originLimit{requests: "0"}, false, 4000, 0},
		"a directory, ten":       {originLimit{requests: "10"}, true, 21, 2 * time.Second},
		"a megabyte a second":    {originLimit{rate: "1M"}, true, 112, 0}, // nothing came: nothing counts
		"no bytes, no more than": {originLimit{requests: "1", rate: "0"}, true, 4, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bound, err := c.limit.share(c.near)
				if err != nil {
					t.Fatal(err)
				}
				a, b := bound(nothing{}, "a"), bound(nothing{}, "b")
				begun, dst := time.Now(), make([]byte, 10_000)
				for i := range c.reads {
					if _, err := []chunk.Source{a, b}[i%2].Fetch(t.Context(), chunktest.Absent, dst, 0); !errors.Is(err, chunk.ErrNotFound) {
						t.Fatal(err)
					}
				}
				if took := time.Since(begun).Round(10 * time.Millisecond); took != c.took {
					t.Errorf("%d reads took %v, want %v", c.reads, took, c.took)
				}
			})
		})
	}
	for _, bad := range []originLimit{{requests: "x"}, {requests: "-1"}, {requests: "1.5"}, {rate: "1X"}} {
		if _, err := bad.share(true); !errors.As(err, new(usageError)) {
			t.Errorf("%+v: %v, want a usage error", bad, err)
		}
		if got := bad.forward([]string{"mount"}); len(got) != 3 || !slices.Contains(got, bad.requests+bad.rate) {
			t.Errorf("%+v is handed on as %q", bad, got)
		}
	}
}
