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
	// Reads is what the disk did since this process opened it, for all
	// attachments that share it; nil while it is not open.
	Reads *disk.Stats `json:"reads,omitempty"`
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
	dev    *device
	over   *writable // dev with its overlay; nil: it cannot be written
	made   bool      // the overlay is new; for who undoes its Attach
	spec   Spec
	pinned *Spec // of the very disk that was attached
	id     string

	// Under Host.mu.
	cancel   context.CancelFunc // ends the goroutine that minds it
	minded   chan struct{}      // closed when that has ended; nil before the first
	rec      *record
	offered  Offered          // nil: outstanding
	problems map[string]error // the last of each step that is outstanding
	ending   error            // why it ended, if not on purpose
	taken    bool             // a Detach is at work
	ended    bool
}

// Attach opens the disks of all specs and then offers them: all, or none if one
// fails. What was attached is kept from then on, whatever becomes of ctx.
func (h *Host) Attach(ctx context.Context, specs ...Spec) ([]Info, error) {
	h.gate.RLock()
	defer h.gate.RUnlock()
	if h.closed {
		return nil, ErrClosed
	}
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
		Image: m.Digest().String(), Disk: m.DiskDigest().String(), Size: m.Size(),
	}
	var over *overlay.Overlay
	made := false
	if spec.Overlay != nil {
		if over, made, err = h.openOverlay(r, s, true); err != nil {
			h.release(s)
			return nil, err
		}
	}
	a := newAttachment(r)
	a.dev.open(s)
	if over != nil {
		a.over.put(over)
		a.made = made
	}
	if err := h.folder.write(a.rec); err != nil {
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
	h.mu.Lock()
	next := *a.rec
	next.State = state
	a.rec = &next
	h.mu.Unlock()
	return h.folder.write(&next)
}

// undo takes back an attachment that was being made.
func (h *Host) undo(ctx context.Context, a *attachment) error {
	var err error
	if a.offered != nil {
		err = a.offered.Detach(ctx, true)
	}
	return errors.Join(err, h.folder.remove(a.id), h.drop(a, a.made))
}

// drop lets go of a's disk, and with destroy erases its overlay.
func (h *Host) drop(a *attachment, destroy bool) error {
	h.mu.Lock()
	first := !a.ended
	a.ended = true
	delete(h.attached, a.id)
	h.mu.Unlock()
	if !first {
		return nil
	}
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
		err = h.folder.remove(id)
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

// Wait returns when the attachment has ended, or ctx has. The error is why, if
// that was not on purpose.
func (h *Host) Wait(ctx context.Context, id string) error {
	h.mu.Lock()
	a := h.attached[id]
	h.mu.Unlock()
	if a == nil {
		return nil
	}
	select {
	case <-a.dev.closed:
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
	i := Info{ID: a.id, Spec: a.spec, Digest: a.rec.Image, Disk: a.rec.Disk, Size: a.rec.Size, Since: a.rec.Since, State: Ready}
	s := a.dev.disk.Load()
	if s != nil {
		stats := s.Stats()
		i.Reads = &stats
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
