package host

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/host/keep"
)

const (
	// settleTime is how long clients are kept waiting for all attachments to be
	// offered again. What takes longer is offered later.
	settleTime          = 3 * time.Second
	stepOffer, stepOpen = "offer", "open"

	// atOnce bounds the disks that Prepare opens at a time.
	atOnce = 16
)

// Prepare opens the disks of what is in the state folder, while another process
// still serves them, so that Recover finds them open. What cannot be opened is an
// error; done gives back what was opened, after Recover.
func (h *Host) Prepare(ctx context.Context) (done func(), err error) {
	f := &folder{path: h.cfg.State}
	all, bad, err := f.load()
	if err = errors.Join(append(bad, err)...); err != nil {
		return nil, err
	}
	opened := make([]*sharedDisk, len(all))
	done = func() {
		for _, s := range opened {
			if s != nil {
				h.release(s)
			}
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, r := range all {
		g.Go(func() error {
			s, err := h.reacquire(gctx, r)
			opened[i] = s
			return err
		})
	}
	if err := g.Wait(); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// Recover brings back what is in the state folder, with the descriptors of the
// process before this one, and returns once all is offered again, or enough
// time has passed; what is left is tried again until it works. The error is
// that of the folder itself, ErrRunning if another host uses it, or of Commit.
func (h *Host) Recover(ctx context.Context, in *keep.Inherited) error {
	folder, err := openFolder(h.cfg.State, in)
	if err != nil {
		return err
	}
	h.folder = folder
	if err := errors.Join(folder.clean(), folder.cleanOverlays()); err != nil {
		h.log.Warn("state folder is not clean", "err", err)
	}
	all, bad, err := folder.load()
	if err != nil {
		return err
	}
	if err := folder.adopt(all, len(bad) == 0); err != nil {
		h.log.Warn("state folder is not clean", "err", err)
	}
	for _, err := range bad {
		h.log.Error("an attachment is not brought back", "err", err)
	}
	list := make([]*attachment, len(all))
	for i, r := range all {
		list[i] = h.newAttachment(r)
		h.mu.Lock()
		h.attached[r.ID] = list[i]
		h.mu.Unlock()
	}
	h.gate.Lock()
	h.closed = false
	h.gate.Unlock()
	h.offerAll(ctx, list, in)
	if h.cfg.Commit != nil {
		if err := h.cfg.Commit(); err != nil {
			return err
		}
	}
	return h.begin()
}

// offerAll offers what is attached again, and minds it.
func (h *Host) offerAll(ctx context.Context, list []*attachment, in *keep.Inherited) {
	settled, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tried := make([]<-chan struct{}, len(list))
	for i, a := range list {
		h.mu.Lock()
		a.offered = nil
		h.mu.Unlock()
		tried[i] = h.bringBack(a, in)
	}
	for _, t := range tried {
		select {
		case <-t:
		case <-settled.Done():
		}
	}
}

// bringBack offers a with what its earlier process left, opens its disk, and
// minds it. tried is closed after the first attempt to offer it.
func (h *Host) bringBack(a *attachment, in *keep.Inherited) (tried <-chan struct{}) {
	first := make(chan struct{})
	h.run(a, func(ctx context.Context) {
		opening, giveUp := context.WithCancel(ctx)
		defer giveUp()
		opened := make(chan struct{})
		go func() {
			defer close(opened)
			h.openDisk(opening, a)
		}()
		again := false
		h.retry(ctx, a, stepOffer, func() error {
			err := h.offer(ctx, a, Offer{Again: true, Inherited: in})
			if again && err == nil {
				err = h.begin()
			}
			if !again {
				again = true
				close(first)
			}
			return err
		})
		over := h.awaitEnd(ctx, a)
		giveUp()
		<-opened
		if over {
			h.forget(a)
		}
	})
	return first
}

// openDisk opens the disk of a, which has none yet, as long as ctx.
func (h *Host) openDisk(ctx context.Context, a *attachment) {
	if a.isOpen() {
		return
	}
	h.retry(ctx, a, stepOpen, func() error {
		s := a.dev.disk.Load()
		if s == nil {
			h.mu.Lock()
			rec := a.rec
			h.mu.Unlock()
			var err error
			if s, err = h.reacquire(ctx, rec); err != nil {
				return err
			}
			if s.late == nil { // what was kept, if anything, did not do
				h.keepAnew(a, s)
			}
			a.dev.open(s)
		}
		return h.reopenOverlay(a, s)
	})
}

// keepAnew keeps what opens the disk of a, which was opened at its origin.
func (h *Host) keepAnew(a *attachment, s *sharedDisk) {
	err := h.change(a, func(r *record) { r.Kept = s.kept }, func(r *record) error { return h.folder.add(r, s.Map()) })
	if err != nil {
		h.log.Warn("the next process will need the origin", "id", a.id, "image", a.spec.Image, "err", err)
	}
}

// retry calls fn until it succeeds, what it is for is gone, or ctx ends. The
// pauses grow.
func (h *Host) retry(ctx context.Context, a *attachment, what string, fn func() error) {
	for pause := h.cfg.RetryMin; ; pause = min(2*pause, h.cfg.RetryMax) {
		err := fn()
		h.mu.Lock()
		if a.problems[what] = err; err == nil {
			delete(a.problems, what)
		}
		h.mu.Unlock()
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrGone) {
			return
		}
		h.log.Error("attachment is not back yet", "id", a.id, "image", a.spec.Image, "step", what, "err", err, "again", pause)
		t := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// mind waits for the end of an attachment that is offered.
func (h *Host) mind(a *attachment) {
	h.lull.stir()
	h.run(a, func(ctx context.Context) {
		if h.awaitEnd(ctx, a) {
			h.forget(a)
		}
	})
}

// run runs fn as the one goroutine that minds a.
func (h *Host) run(a *attachment, fn func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	minded := make(chan struct{})
	h.mu.Lock()
	a.cancel, a.minded = cancel, minded
	h.mu.Unlock()
	go func() {
		defer close(minded)
		defer cancel()
		fn(ctx)
	}()
}

// awaitEnd returns true when the frontend has ended, which is the end of a; false
// when ctx has.
func (h *Host) awaitEnd(ctx context.Context, a *attachment) bool {
	h.mu.Lock()
	offered, gone := a.offered, errors.Is(a.problems[stepOffer], ErrGone)
	h.mu.Unlock()
	if offered == nil {
		return gone
	}
	select {
	case <-offered.Done():
	case <-ctx.Done():
		return false
	}
	if err := offered.Err(); err != nil {
		h.log.Error("attachment has ended", "id", a.id, "image", a.spec.Image, "err", err)
		h.mu.Lock()
		a.ending = err
		h.mu.Unlock()
	}
	return true
}

// forget is the end of an attachment that nobody has detached.
func (h *Host) forget(a *attachment) {
	if err := h.folder.remove(a.id, a.image); err != nil {
		h.log.Error("attachment has ended and is not forgotten", "id", a.id, "err", err)
	}
	h.mu.Lock()
	failed := a.ending != nil
	h.mu.Unlock()
	if err := h.drop(a, !failed && !a.keeps()); err != nil {
		h.log.Error("an overlay is not as it should be", "id", a.id, "overlay", a.spec.Overlay.Dir, "err", err)
	}
}

// rest ends the goroutine that minds a.
func (h *Host) rest(a *attachment) {
	h.mu.Lock()
	cancel, minded := a.cancel, a.minded
	h.mu.Unlock()
	if minded != nil {
		cancel()
		<-minded
	}
}
