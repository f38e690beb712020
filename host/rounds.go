package host

import (
	"context"
	"sync"

	"github.com/rivuletfs/rivulet/origin"
)

// A sought is a name in a store.
type sought struct{ store, ref string }

// rounds looks names up for many at once. Who asks gets the answer of a look that began
// after that, so it sees what was published before; and of all who ask while one is under
// way, one looks for all when that is over. So 200 attachments of one image at once cost
// the origin two looks. The zero value is ready.
type rounds struct {
	mu    sync.Mutex // guards names, and the fields of all roundSlots
	names map[sought]*roundSlot
}

// A roundSlot is the place of one name.
type roundSlot struct {
	turn  chan struct{} // holds one: whoever has it looks
	next  *round        // that has not begun; nil: nobody waits for one
	users int
}

// A round is one look.
type round struct {
	done   chan struct{} // closed when what follows is set
	digest origin.Digest
	err    error
	gaveUp bool // err is the affair of who looked alone
}

// find returns what look finds for name. It calls look with ctx, or waits for another
// caller's look.
func (r *rounds) find(ctx context.Context, name sought, look func(context.Context) (origin.Digest, error)) (origin.Digest, error) {
	for {
		slot, now, first := r.enter(name)
		if first {
			r.lead(ctx, slot, now, look)
		}
		var cut error
		select {
		case <-now.done:
		case <-ctx.Done():
			cut = context.Cause(ctx)
		}
		r.leave(name, slot)
		if first || cut == nil && !now.gaveUp {
			return now.digest, now.err
		}
		if cut != nil {
			return origin.Digest{}, cut
		}
	}
}

// enter makes the caller one of those who wait for the next round of a name. The first of
// them leads it.
func (r *rounds) enter(name sought) (slot *roundSlot, next *round, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slot = r.names[name]; slot == nil {
		slot = &roundSlot{turn: make(chan struct{}, 1)}
		slot.turn <- struct{}{}
		if r.names == nil {
			r.names = make(map[sought]*roundSlot)
		}
		r.names[name] = slot
	}
	slot.users++
	if first = slot.next == nil; first {
		slot.next = &round{done: make(chan struct{})}
	}
	return slot, slot.next, first
}

func (r *rounds) leave(name sought, slot *roundSlot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slot.users--; slot.users == 0 {
		delete(r.names, name)
	}
}

// lead waits until the round before is over, and looks.
func (r *rounds) lead(ctx context.Context, slot *roundSlot, now *round, look func(context.Context) (origin.Digest, error)) {
	defer close(now.done)
	select {
	case <-slot.turn:
		defer func() { slot.turn <- struct{}{} }()
	case <-ctx.Done():
		now.err = context.Cause(ctx)
	}
	r.mu.Lock()
	slot.next = nil // who asks from now on comes too late for this one
	r.mu.Unlock()
	if now.err == nil {
		now.digest, now.err = look(ctx)
	}
	now.gaveUp = now.err != nil && ctx.Err() != nil
}
