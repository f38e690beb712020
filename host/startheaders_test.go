package host

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// A rangeOrigin notes where reads of chunks begin.
type rangeOrigin struct {
	origin.Origin
	mu   sync.Mutex
	from map[chunk.ID][]int64
}

type rangeStore struct {
	origin.Store
	o *rangeOrigin
}

func (o *rangeOrigin) Generation(id origin.GenerationID) origin.Store {
	return &rangeStore{o.Origin.Generation(id), o}
}

func (s *rangeStore) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	s.o.mu.Lock()
	s.o.from[id] = append(s.o.from[id], off)
	s.o.mu.Unlock()
	return s.Store.Fetch(ctx, id, dst, off)
}

// TestStartHeaders: a recorded start has the headers of its chunks, so that one that follows it
// from afar asks for frames at once; and when it is over, what was brought for nothing is gone.
func TestStartHeaders(t *testing.T) {
	s := newSite(t)
	h := s.start()
	i := s.run(h, ProfileRecord, "work")
	s.close(h)
	p, err := s.profile("work")
	if err != nil || len(p.Headers) == 0 || p.Fits(i.mapOf(t, s)) != nil {
		t.Fatalf("recorded %+v, %v", p, err)
	}
	named := make(map[chunk.ID]bool)
	for i := range p.Headers {
		named[p.Headers[i].ID()] = true
	}
	s.state = t.TempDir()
	o := &rangeOrigin{Origin: s.origin, from: make(map[chunk.ID][]int64)}
	h = s.startAt(o, false)
	sp := spec("tree", "a")
	sp.Workload = "work"
	i = s.attach(h, sp)[0]
	eventually(t, "reading ahead", func() bool {
		r := h.List()[0].Start.Replay
		return r != nil && !r.Running
	})
	o.mu.Lock()
	asked := 0
	for id, from := range o.from {
		if named[id] && slices.Min(from) < int64(chunk.HeaderLen(1)) {
			t.Errorf("chunk %v is read from %v, though its header is known", id, from)
		}
		asked += len(from)
	}
	o.mu.Unlock()
	before := h.stack.Memory.Used()
	if err := h.Mark(i.ID); err != nil {
		t.Error(err)
	}
	if after := h.stack.Memory.Used(); asked == 0 || before == 0 || after != 0 {
		t.Errorf("%d requests; %d bytes in memory, and %d when a start that read nothing was over", asked, before, after)
	}
	s.close(h)
}
