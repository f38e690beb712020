package tier

import (
	"context"
	"errors"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// An Event is a read that has ended.
type Event struct {
	Tier     string         // the name that was given to Observe
	ID       chunk.ID       // the chunk
	Offset   int64          // of the first byte asked for
	Asked    int            // bytes asked for
	Bytes    int            // bytes that came
	Begun    time.Time      // when the read came here
	Latency  time.Duration  // until it ended, waiting in line behind included
	Priority chunk.Priority // when it ended
	Err      error
}

// A Class says how a read ended, in few words for a metric's label.
type Class uint8

// The classes of errors.
const (
	OK         Class = iota
	Missed           // chunk.ErrNotFound
	Damaged          // chunk.CorruptError
	Cancelled        // the caller went away
	TimedOut         // ErrTimeout, or the caller's deadline
	Overloaded       // ErrOverloaded or ErrOpen: nobody was asked
	Failed           // anything else
)

// String returns the class's name.
func (c Class) String() string {
	names := [...]string{"ok", "missed", "damaged", "cancelled", "timeout", "overloaded", "failed"}
	return names[min(int(c), int(Failed))]
}

// Classify returns the class of a read's error.
func Classify(err error) Class {
	var corrupt *chunk.CorruptError
	switch {
	case err == nil:
		return OK
	case errors.Is(err, chunk.ErrNotFound):
		return Missed
	case errors.As(err, &corrupt):
		return Damaged
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case errors.Is(err, ErrOverloaded), errors.Is(err, ErrOpen):
		return Overloaded
	}
	return Failed
}

// Observe returns a Layer that calls fn after each read, with the read's
// context. fn runs in the reader's goroutine, any number at once, so it is
// quick; it allocates nothing unless fn does.
func Observe(tier string, fn func(context.Context, Event)) Layer { return observer{tier, fn} }

type observer struct {
	tier string
	fn   func(context.Context, Event)
}

// Read implements [Layer].
func (o observer) Read(ctx context.Context, next Next, id chunk.ID, dst []byte, off int64) (int, error) {
	begun := time.Now()
	n, err := next(ctx, id, dst, off)
	o.fn(ctx, Event{
		Tier: o.tier, ID: id, Offset: off, Asked: len(dst), Bytes: n,
		Begun: begun, Latency: time.Since(begun), Priority: chunk.PriorityOf(ctx), Err: err,
	})
	return n, err
}
