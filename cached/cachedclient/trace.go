package cachedclient

import (
	"context"
	"time"

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
