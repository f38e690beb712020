package host

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/generation"
)

// A StoreHealth says how an origin answers.
type StoreHealth struct {
	Store   string        `json:"store"`             // URL, as in a Spec
	Took    time.Duration `json:"took_ns"`           // to answer
	Problem string        `json:"problem,omitempty"` // why it did not
}

// Stores asks every origin that disks were opened from for the states of its
// generations, which is little, all at once and for as long as ctx. They are sorted
// by URL.
func (h *Host) Stores(ctx context.Context) []StoreHealth {
	h.mu.Lock()
	list := make([]StoreHealth, 0, len(h.sources))
	views := make(map[string]*generation.View, len(h.sources))
	for url, s := range h.sources {
		list = append(list, StoreHealth{Store: url})
		views[url] = s.View
	}
	h.mu.Unlock()
	var asked sync.WaitGroup
	for i := range list {
		asked.Go(func() {
			s, begun := &list[i], time.Now()
			_, err := generation.Load(ctx, views[s.Store].Origin())
			if s.Took = time.Since(begun); err != nil {
				s.Problem = err.Error()
			}
		})
	}
	asked.Wait()
	slices.SortFunc(list, func(a, b StoreHealth) int { return cmp.Compare(a.Store, b.Store) })
	return list
}
