package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// What is opened to be attached soon is held for soonTime; maxSoon bounds how many disks are.
const (
	soonTime = 10 * time.Second
	maxSoon  = 64
)

// soon holds disks that were found and are to be attached. The zero value is ready.
type soon struct {
	mu   sync.Mutex
	held map[*sharedDisk]*time.Timer // each is a use of its disk
	over sync.WaitGroup              // of those that are being given back
}

// findSoon finds the image of a digest and opens its disk, as spec says: from a far origin that is
// asked where the digest leads, and then for all at once that opens the disk.
func (h *Host) findSoon(ctx context.Context, src *Source, spec *Spec) (Found, error) {
	h.gate.RLock() // as in Attach
	defer h.gate.RUnlock()
	if h.closed {
		return Found{}, ErrClosed
	}
	ctx, done := h.ending.context(ctx)
	defer done()
	want, _ := catalog.ParseRef(spec.Image)
	at := sought{spec.Store, want.String()}
	to, err := h.looks.find(ctx, at, func(ctx context.Context) (origin.Digest, error) { return src.View.Leads(ctx, want) })
	if err != nil {
		return Found{}, err
	}
	opens := *spec
	opens.Image = to.String()
	h.recent.add(sought{spec.Store, opens.Image})
	s, err := h.acquire(ctx, &opens)
	if err != nil {
		return Found{}, err
	}
	// Whoever can write pointers must not choose what a digest means.
	if info := s.Map().Info(); want != info.Source && want != info.Disk || want == (origin.Digest{}) {
		h.release(s)
		return Found{}, fmt.Errorf("image %v: the store leads to block map %v, which has another digest: %w", want, to, chunk.ErrNotFound)
	}
	h.holdSoon(s)
	return found(s.Map()), nil
}

// Reach opens origins ahead of need, all at once, and reads which generations they have, so that who looks
// for an image there is spared that. The error tells of those that cannot be reached; they are tried
// again when they are needed.
func (h *Host) Reach(ctx context.Context, stores ...string) error {
	if len(stores) > maxList {
		return SpecErrorf("reach: more than %d stores", maxList)
	}
	errs := make([]error, len(stores))
	var all sync.WaitGroup
	for i, url := range stores {
		all.Go(func() {
			src, err := h.source(ctx, url)
			if err == nil {
				_, err = src.View.States(ctx)
			}
			if err != nil {
				errs[i] = fmt.Errorf("reach %s: %w", url, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// holdSoon holds a use of a disk that nobody has attached yet, for a while.
func (h *Host) holdSoon(s *sharedDisk) {
	h.soon.mu.Lock()
	defer h.soon.mu.Unlock()
	if h.soon.held == nil {
		h.soon.held = make(map[*sharedDisk]*time.Timer)
	}
	if t := h.soon.held[s]; t != nil || len(h.soon.held) >= maxSoon {
		if t != nil {
			t.Reset(soonTime) // if it has fired, the disk is let go now, and opened again
		}
		h.soon.over.Go(func() { h.release(s) })
		return
	}
	h.soon.held[s] = time.AfterFunc(soonTime, func() { h.letGo(s) })
}

// letGo ends the hold of a disk, unless that was done.
func (h *Host) letGo(s *sharedDisk) {
	h.soon.mu.Lock()
	_, held := h.soon.held[s]
	delete(h.soon.held, s)
	if held {
		h.soon.over.Add(1)
		defer h.soon.over.Done()
	}
	h.soon.mu.Unlock()
	if held {
		h.release(s)
	}
}

// letAllGo ends all holds, and waits until they are over.
func (h *Host) letAllGo() {
	h.soon.mu.Lock()
	var all []*sharedDisk
	for s, t := range h.soon.held {
		t.Stop()
		all = append(all, s)
	}
	h.soon.mu.Unlock()
	for _, s := range all {
		h.letGo(s)
	}
	h.soon.over.Wait()
}
