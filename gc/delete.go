package gc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// alarmsEvery is after how many things removed the alarms are looked at again.
const alarmsEvery = 10_000

// alarmsError is the alarms that stop a deletion.
type alarmsError []generation.Alarm

func (e alarmsError) Error() string {
	return fmt.Sprintf("%v: %d raised, the first says %q; see 'rivulet gc alarms'", ErrAlarm, len(e), e[0].Reason)
}

func (e alarmsError) Unwrap() error { return ErrAlarm }

// quiet returns an error if there are alarms.
func (c *Collector) quiet(ctx context.Context) error {
	alarms, err := generation.Alarms(ctx, c.Origin)
	if err != nil {
		return err
	}
	if len(alarms) > 0 {
		return alarmsError(alarms)
	}
	return nil
}

// deleteOne closes an expired generation and takes the deletion to its end.
func (c *Collector) deleteOne(ctx context.Context, id origin.GenerationID, r *Report) error {
	if err := c.quiet(ctx); err != nil {
		return err
	}
	err := generation.Advance(ctx, c.Origin, id, generation.StateExpired, generation.StateDeleted, c.now())
	if err != nil {
		return err
	}
	return c.finish(ctx, id, r)
}

// finish looks through a generation that is closed a last time, and erases it or
// opens it again. Whoever has come to rely on it has said so before it was closed,
// or has seen that it is: what is not seen here is not relied on.
func (c *Collector) finish(ctx context.Context, id origin.GenerationID, r *Report) error {
	w, err := c.scan(ctx, generation.StateDeleted)
	if err != nil {
		return err
	}
	if s := w.list.State(id); s != generation.StateDeleted {
		return fmt.Errorf("generation %v is %v: %w", id, s, generation.ErrState)
	}
	if err = c.quiet(ctx); err == nil {
		err = w.damaged()
	}
	if err == nil {
		err = c.needed(ctx, w, id)
	}
	if err != nil {
		back := generation.Advance(ctx, c.Origin, id, generation.StateDeleted, generation.StateExpired, c.now())
		return errors.Join(err, back)
	}
	err = generation.Advance(ctx, c.Origin, id, generation.StateDeleted, generation.StateErased, c.now())
	if err != nil {
		return err
	}
	c.log().Info("generation is deleted", "generation", id)
	r.Deleted = append(r.Deleted, id)
	return c.erase(ctx, id)
}

// needed raises an alarm and returns ErrWanted if something in generation id is
// wanted and in no generation that stays.
func (c *Collector) needed(ctx context.Context, w *wanted, id origin.GenerationID) error {
	for _, name := range slices.Sorted(maps.Keys(w.names)) {
		if n := w.names[name]; n.Generation == id {
			return c.alarm(ctx, n.BlockMap, id)
		}
	}
	stays := slices.DeleteFunc(w.list.Readable(), func(g origin.GenerationID) bool {
		return w.list.State(g) == generation.StateExpired // it may go as well
	})
	held, err := c.held(ctx, append(stays, id))
	if err != nil {
		return err
	}
	for _, d := range w.sorted() {
		size, here := held[id][d]
		there := func(g origin.GenerationID) bool { n, ok := held[g][d]; return ok && n == size }
		if here && !slices.ContainsFunc(stays, there) {
			return c.alarm(ctx, d, id)
		}
	}
	return nil
}

func (c *Collector) alarm(ctx context.Context, d origin.Digest, id origin.GenerationID) error {
	a := generation.Alarm{
		Time: c.now().UTC(), Who: c.who(), Generation: id, Image: d.String(), Reason: generation.ReasonWanted,
	}
	c.log().Error("garbage collection has to stop", "reason", a.Reason, "image", d, "generation", id)
	if err := generation.Raise(ctx, c.Origin, a); err != nil {
		return err
	}
	return errors.Join(fmt.Errorf("delete generation %v: image %v: %w", id, d, ErrWanted), c.quiet(ctx))
}

// erase removes all that lies in an erased generation, unless there is an alarm
// or one comes.
func (c *Collector) erase(ctx context.Context, id origin.GenerationID) error {
	if err := c.quiet(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	looked := 0
	err := c.Origin.DeleteGeneration(ctx, id, func(removed int) {
		c.tell(Progress{Removed: removed})
		if removed-looked < alarmsEvery {
			return
		}
		looked = removed
		if err := c.quiet(ctx); err != nil {
			cancel(err)
		}
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
