package overlay

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// maxPending bounds the changes that are kept for the next flush; the writer that
// reaches it flushes.
const maxPending = 1 << 15

// A flusher makes rounds of flushing, one at a time. Who asks while one runs is
// served by the next one, together with all others who do.
type flusher struct {
	mu       sync.Mutex
	idle     sync.Cond // broadcast when a round has ended, and when running falls
	running  bool
	begun    uint64 // rounds
	finished uint64
	failed   atomic.Pointer[error] // of the first round that failed; none succeeds after it

	waiting []change // zeroed runs that could not be punched; owned by who runs
	spare   []change // to be the next pending; owned by who runs
}

func (f *flusher) err() error {
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *flusher) fail(err error) {
	if err != nil {
		f.failed.CompareAndSwap(nil, &err)
	}
}

// exclusively runs fn while no round does. An error of fn fails the flusher.
func (f *flusher) exclusively(fn func() error) error {
	f.mu.Lock()
	for f.running {
		f.idle.Wait()
	}
	err := f.err()
	if err != nil {
		f.mu.Unlock()
		return err
	}
	f.running = true
	f.mu.Unlock()
	err = fn()
	f.fail(err)
	f.mu.Lock()
	f.running = false
	f.idle.Broadcast()
	f.mu.Unlock()
	return err
}

// Flush makes what was written durable: one sync of the top layer, and one of the
// journal if blocks were new or zeroed. Flushes that wait are served together.
func (o *Overlay) Flush() error {
	if err := o.enter(); err != nil {
		return fmt.Errorf("flush overlay: %w", err)
	}
	defer o.leave()
	o.stats.flushes.Add(1)
	if err := o.flush(); err != nil {
		return fmt.Errorf("flush overlay %s: %w", o.dir, err)
	}
	return nil
}

func (o *Overlay) flush() error {
	f := &o.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.running && !o.dirty.Load() {
		return f.err()
	}
	want := f.begun + 1
	for f.finished < want && f.err() == nil {
		if f.running {
			f.idle.Wait()
			continue
		}
		f.running = true
		f.begun++
		f.mu.Unlock()
		zeroed, err := o.round()
		f.fail(err)
		f.mu.Lock()
		f.finished = f.begun
		f.idle.Broadcast()
		f.mu.Unlock()
		if err == nil {
			o.giveBack(zeroed)
		}
		f.mu.Lock()
		f.running = false
		f.idle.Broadcast()
	}
	return f.err()
}

// round is one round of flushing. It returns the batch that is durable now.
func (o *Overlay) round() ([]change, error) {
	o.stats.rounds.Add(1)
	o.dirty.Store(false)
	o.mu.Lock()
	fits := o.medium.fits(len(o.pending))
	var batch []change
	var mark uint64
	if fits {
		if batch = o.takePending(); len(batch) > 0 {
			mark = o.recent.note(recentMark, o.medium.epoch, o.medium.batch+1)
		}
	}
	o.mu.Unlock()
	if !fits {
		return o.writeCheckpoint(false, nil)
	}
	// The data first: an entry of the journal promises that they are there.
	if err := o.top.file.Sync(); err != nil {
		return nil, fmt.Errorf("sync layer %016x: %w", o.top.id, err)
	}
	if len(batch) == 0 {
		return nil, nil
	}
	if err := o.keepRecent(mark); err != nil {
		return nil, err
	}
	if err := o.medium.append(batch); err != nil {
		return nil, err
	}
	o.held(mark)
	return batch, nil
}

// takePending returns the changes so far, and begins a new list. The caller has mu
// and the flusher, and the list is its own until the flusher is the next one's.
func (o *Overlay) takePending() []change {
	batch := o.pending
	o.pending = o.flusher.spare[:0]
	o.flusher.spare = batch
	return batch
}

// checkpoint writes the index anew, of all that was written, and gives back the
// space of what was zeroed. alter is called while nobody else sees maps and layers
// (mu is held), and may be nil. The caller has the flusher, or the overlay for
// itself.
func (o *Overlay) checkpoint(clean bool, alter func()) error {
	batch, err := o.writeCheckpoint(clean, alter)
	if err == nil {
		o.giveBack(batch)
	}
	return err
}

func (o *Overlay) writeCheckpoint(clean bool, alter func()) ([]change, error) {
	o.mu.Lock()
	o.dirty.Store(false)
	written := o.top
	if alter != nil {
		alter()
	}
	batch := o.takePending()
	head := o.head
	head.clean = clean && len(o.flusher.waiting) == 0 && !slices.ContainsFunc(batch, func(c change) bool { return c.drop })
	head.epoch = randomID()
	head.layers = nil
	for _, l := range o.table.all() {
		head.layers = append(head.layers, l.layerInfo)
	}
	index := encodeIndex(&head, &o.states)
	if o.top != written {
		o.recent.note(recentLayer, o.top.id, uint64(o.top.slot))
	}
	mark := o.recent.note(recentMark, head.epoch, 0)
	o.mu.Unlock()
	if err := written.file.Sync(); err != nil {
		return nil, fmt.Errorf("sync layer %016x: %w", written.id, err)
	}
	// The records first: of what an index has, or a batch, none may come later.
	if err := o.keepRecent(mark); err != nil {
		return nil, err
	}
	if err := o.replaceIndex(index, head.epoch); err != nil {
		return nil, err
	}
	o.held(mark)
	return batch, nil
}
