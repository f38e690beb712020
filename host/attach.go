package host

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/overlay"
)

// An Info tells of an attachment.
type Info struct {
	ID      string    `json:"id"`
	Spec    Spec      `json:"spec"`
	Digest  string    `json:"digest"`            // of the block map
	Disk    string    `json:"disk"`              // digest of the disk
	Size    int64     `json:"size"`              // bytes
	Address string    `json:"address,omitempty"` // where clients find it
	Since   time.Time `json:"since"`
	State   State     `json:"state"`
	Problem string    `json:"problem,omitempty"` // why it is not ready, as far as is known
	Served  Served    `json:"served"`            // to its readers, by this process
	// Reads is what the disk did since this process opened it, for all
	// attachments that share it; nil while it is not open.
	Reads *disk.Stats `json:"reads,omitempty"`
	// SlowReads are those of this attachment that were slow or failed; see Host.Slow.
	SlowReads int64 `json:"slow_reads"`
	// Failed is when the last read of it that failed had begun; zero: none did.
	Failed time.Time `json:"failed,omitzero"`
	// Waits is how many pieces of frames the disk's readers wait for at present, and
	// LongestWait for how long the first of them does.
	Waits       int           `json:"waits"`
	LongestWait time.Duration `json:"longest_wait_ns"`
	// Start tells of the start of its disk, which those share that share the disk; nil:
	// it is not minded, being off, or that of an earlier process.
	Start *Start `json:"start,omitempty"`
	// Fill tells of the fill of its disk, likewise; nil: it is not filled.
	Fill *Filled `json:"fill,omitempty"`
	// Written tells of its overlay; nil while that is not open, or if there is none.
	Written *Written `json:"written,omitempty"`
}

// A State says how far an attachment is.
type State string

// States of an attachment.
const (
	Ready   State = "ready"   // offered, and its disk is open
	Opening State = "opening" // offered; reads wait for the disk
	Waiting State = "waiting" // not offered yet; tried again
)

// An attachment is one disk that is offered, or will be.
type attachment struct {
	dev   *device
	spec  Spec
	id    string
	image string // digest of its block map
	slow  slowLog
	over  *writable // dev with its overlay; nil: it cannot be written
	made  bool      // the overlay is new; for who undoes its Attach

	writing sync.Mutex // held while rec is replaced and written

	// Under Host.mu.
	cancel   context.CancelFunc // ends the goroutine that minds it
	minded   chan struct{}      // closed when that has ended; nil before the first
	rec      *record
	offered  Offered          // nil: outstanding
	problems map[string]error // the last of each step that is outstanding
	ending   error            // why it ended, if not on purpose
	taken    bool             // a Detach is at work
	ended    bool

	gone chan struct{} // closed when its end is over
}

// Attach opens the disks of all specs and then offers them: all, or none if one
// fails. What was attached is kept from then on, whatever becomes of ctx.
func (h *Host) Attach(ctx context.Context, specs ...Spec) ([]Info, error) {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if h.closed {
		return nil, ErrClosed
	}
	ctx, done := h.ending.context(ctx)
	defer done()
	var made []*attachment
	undo := func(err error) error {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		for _, a := range slices.Backward(made) {
			err = errors.Join(err, h.undo(clean, a))
		}
		return err
	}
	for i := range specs {
		a, err := h.prepare(ctx, &specs[i])
		if err != nil {
			return nil, undo(err)
		}
		made = append(made, a)
	}
	for _, a := range made {
		if err := h.offer(ctx, a, Offer{}); err != nil {
			return nil, undo(err)
		}
	}
	if err := h.begin(); err != nil {
		return nil, undo(err)
	}
	for _, a := range made {
		if err := h.settled(ctx, a.dev.disk.Load()); err != nil {
			return nil, undo(fmt.Errorf("image %q: %w", a.spec.Image, err))
		}
	}
	infos := make([]Info, len(made))
	for i, a := range made {
		h.mu.Lock()
		h.attached[a.id] = a
		h.mu.Unlock()
		h.mind(a)
		infos[i] = h.info(a)
	}
	return infos, nil
}

// cleanupTime bounds taking back what was done for an Attach that failed.
const cleanupTime = 10 * time.Second

// prepare opens the disk of spec and writes down what is to be offered.
func (h *Host) prepare(ctx context.Context, spec *Spec) (*attachment, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if h.cfg.Frontends[spec.Frontend] == nil {
		return nil, SpecErrorf("attach %q: no frontend is called %q", spec.Image, spec.Frontend)
	}
	if spec.Fill != nil && !spec.Fill.Optional && h.cfg.Cache == nil {
		return nil, SpecErrorf("attach %q: a fill brings the disk to the host cache, and there is none: start 'rivulet cached'", spec.Image)
	}
	s, err := h.acquire(ctx, spec)
	if err != nil {
		return nil, err
	}
	var id [8]byte
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	m := s.Map()
	r := &record{
		Version: recordVersion, ID: hex.EncodeToString(id[:]), Spec: *spec, Since: time.Now().UTC(),
		Image: m.Digest().String(), Disk: m.DiskDigest().String(), Size: m.Size(), Kept: s.kept,
	}
	var over *overlay.Overlay
	made := false
	if spec.Overlay != nil {
		if over, made, err = h.openOverlay(r, s, true); err != nil {
			h.release(s)
			return nil, err
		}
	}
	a := h.newAttachment(r)
	a.dev.open(s)
	if over != nil {
		a.over.put(over)
		a.made = made
	}
	if err := h.folder.add(a.rec, m); err != nil {
		return nil, errors.Join(err, h.drop(a, made))
	}
	return a, nil
}

// offer has the frontend show a. o says what it is to go on with.
func (h *Host) offer(ctx context.Context, a *attachment, o Offer) error {
	f := h.cfg.Frontends[a.spec.Frontend]
	if f == nil {
		return SpecErrorf("attachment %s: no frontend is called %q", a.id, a.spec.Frontend)
	}
	o.ID, o.Where, o.Name, o.TLS = a.id, a.spec.Where, a.spec.Name, a.spec.TLS
	o.Device = a.device()
	if a.spec.Overlay != nil {
		o.Room = a.spec.Overlay.Room
	}
	o.Save = func(state json.RawMessage) error { return h.save(a, state) }
	h.mu.Lock()
	o.Disk, o.Description, o.State = a.rec.Image, a.rec.Disk, a.rec.State
	h.mu.Unlock()
	offered, err := f.Offer(ctx, o)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		a.offered = offered
	}
	return err
}

// save keeps what the frontend will need to go on with a.
func (h *Host) save(a *attachment, state json.RawMessage) error {
	return h.change(a, func(r *record) { r.State = state }, h.folder.write)
}

// change changes the record of a, and has write keep it.
func (h *Host) change(a *attachment, fn func(*record), write func(*record) error) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	h.mu.Lock()
	next := *a.rec
	fn(&next)
	a.rec = &next
	h.mu.Unlock()
	return write(&next)
}

// undo takes back an attachment that was being made.
func (h *Host) undo(ctx context.Context, a *attachment) error {
	var err error
	if a.offered != nil {
		err = a.offered.Detach(ctx, true)
	}
	return errors.Join(err, h.folder.remove(a.id, a.image), h.drop(a, a.made))
}

// drop lets go of a's disk, and with destroy erases its overlay.
func (h *Host) drop(a *attachment, destroy bool) error {
	h.mu.Lock()
	first := !a.ended
	a.ended = true
	delete(h.attached, a.id)
	if first {
		h.leaving[a.id] = a
		h.gone.add(a)
		h.ended.Add(1)
	}
	h.mu.Unlock()
	if !first {
		return nil
	}
	h.lull.stir()
	defer h.ended.Done()
	defer func() {
		h.mu.Lock()
		delete(h.leaving, a.id)
		h.mu.Unlock()
		close(a.gone)
	}()
	close(a.dev.closed)
	err := a.over.end(destroy)
	if s := a.dev.disk.Load(); s != nil {
		h.release(s)
	}
	return err
}

// keeps reports whether what was written to a outlives its end on purpose.
func (a *attachment) keeps() bool { return a.spec.Overlay == nil || a.spec.Overlay.Keep }

// Detach ends an attachment. If it is in use, Detach waits for that to end, as
// long as ctx, and then returns ErrBusy with nothing changed; or, with force,
// takes it away from its users.
func (h *Host) Detach(ctx context.Context, id string, force bool) error {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if h.closed {
		return ErrClosed
	}
	ctx, done := h.ending.context(ctx)
	defer done()
	a, err := h.claim(id)
	if err != nil {
		return err
	}
	h.rest(a) // it may be being offered, or end by itself
	h.mu.Lock()
	offered, ended := a.offered, a.ended
	h.mu.Unlock()
	if ended {
		return nil
	}
	if offered != nil {
		err = offered.Detach(ctx, force)
	}
	if err == nil {
		err = h.folder.remove(id, a.image)
	}
	if err != nil {
		h.mu.Lock()
		a.taken = false
		h.mu.Unlock()
		h.mind(a)
		return fmt.Errorf("detach %s: %w", id, err)
	}
	if err := h.drop(a, !a.keeps()); err != nil {
		return fmt.Errorf("detach %s: it is gone, and its overlay not as it should be: %w", id, err)
	}
	return nil
}

// claim finds an attachment for one Detach.
func (h *Host) claim(id string) (*attachment, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.attached[id]
	if a == nil {
		return nil, fmt.Errorf("detach %q: %w", id, ErrNotFound)
	}
	if a.taken {
		return nil, fmt.Errorf("detach %s: somebody does already: %w", id, ErrBusy)
	}
	a.taken = true
	return a, nil
}

// List tells of all attachments, the oldest first.
func (h *Host) List() []Info {
	var list []Info
	for _, a := range h.all() {
		list = append(list, h.info(a))
	}
	slices.SortFunc(list, func(a, b Info) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Wait returns when the attachment has ended and its overlay, if it had one, is closed, and erased if it was for this
// attachment alone and that ended on purpose; or when ctx has ended. The error is why, if it was not on purpose.
func (h *Host) Wait(ctx context.Context, id string) error {
	h.mu.Lock()
	a := cmp.Or(h.attached[id], h.leaving[id])
	h.mu.Unlock()
	if a == nil {
		return nil
	}
	select {
	case <-a.gone:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return a.ending
}

func (h *Host) info(a *attachment) Info {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := Info{ID: a.id, Spec: a.spec, Digest: a.rec.Image, Disk: a.rec.Disk, Size: a.rec.Size, Since: a.rec.Since, State: Ready, Served: a.dev.served.served()}
	i.SlowReads, i.Failed = a.slow.count()
	s := a.dev.disk.Load()
	if s != nil {
		stats := s.Stats()
		i.Reads = &stats
		if err := s.away(); err != nil {
			i.Problem = err.Error()
		}
		i.Waits, i.LongestWait = s.Waiting()
		i.Start, i.Fill = s.start.tell(), s.fill.tell()
	}
	if i.Written = a.over.written(); !a.isOpen() {
		i.State = Opening
	}
	if a.offered != nil {
		i.Address = a.offered.Address()
	} else {
		i.State = Waiting
	}
	for _, err := range a.problems {
		i.Problem = err.Error()
	}
	return i
}
