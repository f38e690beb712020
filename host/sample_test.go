package host

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A warmCache has all that was read once.
type warmCache struct {
	mu     sync.Mutex
	chunks map[chunk.ID]map[int64][]byte
}

func (c *warmCache) Reader(_ origin.Requester, origin chunk.Reader) chunk.Reader {
	return warmReader{c, origin}
}

func (c *warmCache) Held() chunk.Reader { return warmReader{c, nil} }

// Away implements [Cache].
func (*warmCache) Away(chunk.ID) bool { return false }

type warmReader struct {
	*warmCache
	origin chunk.Reader // nil: none
}

func (r warmReader) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.chunks[id][off]; len(b) >= len(dst) {
		return copy(dst, b), nil
	}
	if r.origin == nil {
		return 0, chunk.ErrNotFound
	}
	n, err := r.origin.ReadChunk(ctx, id, dst, off)
	if r.chunks[id] == nil {
		r.chunks[id] = make(map[int64][]byte)
	}
	r.chunks[id][off] = bytes.Clone(dst[:n])
	return n, err
}

// TestSampled looks for a cache's hits at the origin, which has lost them: the
// alarm is raised.
func TestSampled(t *testing.T) {
	s := newSite(t)
	cfg := s.config()
	cfg.State, cfg.Cache, cfg.Sample = "", &warmCache{chunks: make(map[chunk.ID]map[int64][]byte)}, 1
	cfg.Memory = 1 // bytes: every read goes to the cache
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.attach(h, spec("tree", "a"))
	o, _ := s.front.last("a")
	readFile(t, o)
	if alarms, err := generation.Alarms(t.Context(), s.origin); err != nil || len(alarms) != 0 {
		t.Errorf("%d alarms, %v; nothing is lost yet", len(alarms), err)
	}
	store := s.origin.Generation(1)
	var ids []chunk.ID
	if err := store.List(t.Context(), func(id chunk.ID, _ int64) error { ids = append(ids, id); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := store.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	readFile(t, o) // out of the warm cache
	eventually(t, "the alarm", func() bool {
		alarms, err := generation.Alarms(t.Context(), s.origin)
		return err == nil && len(alarms) > 0
	})
	s.close(h)
}
