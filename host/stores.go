package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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

// Stores asks every origin that disks were opened from, all at once and for as long as
// ctx: for the states of its generations, and for a chunk of an image that is attached
// from there, neither of which is read. They are sorted by URL.
func (h *Host) Stores(ctx context.Context) []StoreHealth {
	list, probes := h.probes()
	var asked sync.WaitGroup
	for i := range list {
		asked.Go(func() {
			s, begun := &list[i], time.Now()
			err := probes[i].ask(ctx)
			if s.Took = time.Since(begun); err != nil {
				s.Problem = err.Error()
			}
		})
	}
	asked.Wait()
	slices.SortFunc(list, func(a, b StoreHealth) int { return cmp.Compare(a.Store, b.Store) })
	return list
}

// A probe is what an origin is asked.
type probe struct {
	source *Source // nil: it has not been reached yet
	image  *Disk   // nil: none is attached
}

// probes returns the origins and what to ask each.
func (h *Host) probes() (list []StoreHealth, probes []probe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	attached := make(map[string]*Disk)
	for key, d := range h.disks {
		select {
		case <-d.ready:
			if d.Disk != nil && d.Map().Len() > 0 {
				attached[key.store] = d.Disk
			}
		default: // it is being opened
		}
	}
	for url, slot := range h.sources {
		list = append(list, StoreHealth{Store: url})
		probes = append(probes, probe{slot.source.Load(), attached[url]})
	}
	return list, probes
}

func (p *probe) ask(ctx context.Context) error {
	if p.source == nil {
		return errors.New("it has not been reached yet")
	}
	if _, err := generation.Load(ctx, p.source.View.Origin()); err != nil || p.image == nil {
		return err
	}
	if _, err := p.image.image.Stat(ctx, p.image.Map().Chunk(0).ID); err != nil {
		return fmt.Errorf("image %s, which is attached: %w", p.image.Map().Digest(), err)
	}
	return nil
}
