package host

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host/keep"
)

// TestStartLate: a start that begins long after its disk was attached finds what was read ahead of it, if that
// would have to come from far again; memory is not filled with what is near.
func TestStartLate(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.run(h, ProfileRecord, "")
	s.close(h)
	for _, near := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := s.config()
			c.State = ""
			c.Open = func(context.Context, string) (Source, error) {
				return Source{View: generation.NewView(s.origin, generation.Options{}), Near: near}, nil
			}
			h, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = h.Close() }()
			if err := h.Recover(t.Context(), &keep.Inherited{}); err != nil {
				t.Fatal(err)
			}
			sp := spec("tree", "a")
			sp.Profile = ProfileReplay
			i, err := h.Attach(t.Context(), sp)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			o, _ := s.front.last("a")
			readFile(t, o)
			reads := h.List()[0].Reads
			if want := map[bool]int64{false: reads.Ahead}[near]; reads.Ahead == 0 || reads.AheadUsed != want {
				t.Errorf("near %v: %+v", near, reads)
			}
			if err := h.Detach(t.Context(), i[0].ID, false); err != nil {
				t.Error(err)
			}
		})
	}
}
