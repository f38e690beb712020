package cachedclient

import (
	"context"
	"errors"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
)

// A step is what a read does with the host cache, for the trace in its context.
type step struct {
	trace *chunk.Trace // nil: there is none, and nothing costs anything
	step  chunk.Step
}

func newStep(ctx context.Context, id chunk.ID, dst []byte, off int64) step {
	t := step{trace: chunk.TraceOf(ctx)}
	if t.trace != nil {
		t.step = chunk.Step{Tier: chunk.HostCache, ID: id, Offset: off, Bytes: len(dst), Begun: time.Now()}
	}
	return t
}

// end adds the step to the trace: nil says that the cache had the bytes.
func (t step) end(err error) {
	if t.trace == nil {
		return
	}
	t.step.Took, t.step.Err = time.Since(t.step.Begun), err
	t.trace.Add(t.step)
}

// errVain is how steps of the daemon's end that failed: it does not say why.
var errVain = errors.New("the host cache did not get it from there")

// addSteps adds what the daemon says that it did to have a chunk. It may have begun
// that for others, before it was asked.
func addSteps(t *chunk.Trace, id chunk.ID, list []wire.Step) {
	if t == nil {
		return
	}
	now := time.Now()
	for _, s := range list {
		step := chunk.Step{
			Tier: s.Tier, ID: id, Bytes: int(s.Bytes),
			Begun: now.Add(-time.Duration(s.Ago) * time.Microsecond), Took: time.Duration(s.Took) * time.Microsecond,
		}
		switch s.End {
		case wire.Lacked:
			step.Err = chunk.ErrNotFound
		case wire.Failed:
			step.Err = errVain
		}
		t.Add(step)
	}
}
