package generation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// Pointer is the name of the origin's pointer that holds the list.
const Pointer = "generations"

// ErrState is returned (wrapped) when a generation is not in the state that a
// change takes it from, or an older one is not as far.
var ErrState = errors.New("not in the state for that")

// Load reads the states. An origin without a list has the one that it begins
// with: generation 1 is active.
func Load(ctx context.Context, o origin.Pointers) (List, error) {
	l, _, err := load(ctx, o)
	if errors.Is(err, chunk.ErrNotFound) {
		return first(time.Unix(0, 0)), nil
	}
	return l, err
}

func load(ctx context.Context, o origin.Pointers) (List, []byte, error) {
	value, err := o.GetPointer(ctx, Pointer)
	if err != nil {
		return nil, nil, fmt.Errorf("generations: %w", err)
	}
	l, err := Parse(value)
	if err != nil {
		return nil, nil, fmt.Errorf("generations: %w", err)
	}
	return l, value, nil
}

// Enter reads the states for somebody who is going to write: an origin that has
// no list gets one.
func Enter(ctx context.Context, o origin.Pointers) (List, error) {
	return change(ctx, o, time.Now(), func(List) (List, error) { return nil, nil })
}

// Active returns the generation to publish into; see Enter.
func Active(ctx context.Context, o origin.Pointers) (origin.GenerationID, error) {
	l, err := Enter(ctx, o)
	if err != nil {
		return 0, err
	}
	return l.Active(), nil
}

// change replaces the list by what fn makes of it, nil to leave it, and returns
// the list that is in force then. Where there is none, a first one is made.
func change(ctx context.Context, o origin.Pointers, now time.Time, fn func(List) (List, error)) (List, error) {
	for {
		l, old, err := load(ctx, o)
		missing := errors.Is(err, chunk.ErrNotFound)
		if missing {
			l, err = first(now), nil
		}
		if err != nil {
			return nil, err
		}
		next, err := fn(slices.Clone(l))
		if err != nil {
			return nil, err
		}
		if next == nil {
			if next = l; !missing {
				return l, nil
			}
		}
		if err := next.check(); err != nil {
			return nil, err
		}
		err = o.SwapPointer(ctx, Pointer, old, []byte(next.String()))
		if err == nil {
			return next, nil
		}
		if !errors.Is(err, origin.ErrConflict) {
			return nil, fmt.Errorf("generations: %w", err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// New makes a new generation active in the place of old, which it retires, and
// returns its id. If another one than old is active it changes nothing and returns
// that: of several that notice at once that a generation is old, one makes the
// next. An origin without a list gets one.
func New(ctx context.Context, o origin.Pointers, old origin.GenerationID, now time.Time) (origin.GenerationID, error) {
	l, err := change(ctx, o, now, func(l List) (List, error) {
		last := &l[len(l)-1]
		switch {
		case last.ID != old:
			return nil, nil
		case last.ID == math.MaxUint32:
			return nil, errors.New("new generation: there are no more ids")
		}
		if len(l) == MaxListed && l[0].State != StateErased {
			return nil, fmt.Errorf("new generation: there are %d, of which none is erased; let 'rivulet gc run' delete old ones", len(l))
		}
		last.State, last.Since = StateRetired, stamp(now)
		l = append(l, Entry{ID: old + 1, State: StateActive, Created: stamp(now), Since: stamp(now)})
		return l[max(0, len(l)-MaxListed):], nil
	})
	if err != nil {
		return 0, err
	}
	return l.Active(), nil
}

// Advance takes generation id from one state to another: from retired to
// expired, from there to deleted, from there to erased or back. (New retires.)
// The error is ErrState if id is in another state, or an older generation not
// as far; for deleted, all older ones must be erased.
func Advance(ctx context.Context, o origin.Pointers, id origin.GenerationID, from, to State, now time.Time) error {
	switch [2]State{from, to} {
	case [2]State{StateRetired, StateExpired}, [2]State{StateExpired, StateDeleted},
		[2]State{StateDeleted, StateExpired}, [2]State{StateDeleted, StateErased}:
	default:
		return fmt.Errorf("generation %v: from %v to %v: %w", id, from, to, ErrState)
	}
	_, err := change(ctx, o, now, func(l List) (List, error) {
		i := slices.IndexFunc(l, func(e Entry) bool { return e.ID == id })
		if i < 0 || l[i].State != from {
			return nil, fmt.Errorf("generation %v is %v, not %v: %w", id, l.State(id), from, ErrState)
		}
		if i > 0 && (l[i-1].State < to || to == StateDeleted && l[i-1].State != StateErased) {
			return nil, fmt.Errorf("generation %v cannot be %v while %v is %v: %w", id, to, l[i-1].ID, l[i-1].State, ErrState)
		}
		l[i].State, l[i].Since = to, stamp(now)
		return l, nil
	})
	return err
}

// Forget takes the erased generations out of the list that became so before
// the given time. Their ids are not given out again.
func Forget(ctx context.Context, o origin.Pointers, before time.Time) error {
	_, err := change(ctx, o, before, func(l List) (List, error) {
		n := 0
		for n < len(l) && l[n].State == StateErased && l[n].Since.Before(before) {
			n++
		}
		if n == 0 {
			return nil, nil
		}
		return l[n:], nil
	})
	return err
}
