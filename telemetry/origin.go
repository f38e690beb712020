package telemetry

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/tier"
)

// A kind is what an origin is asked for.
type kind int

const (
	askChunk kind = iota
	askProbe
	askObject
	askAttachments
	askPointer
	askSwap
	askList
	askOther
	kinds
)

var kindNames = [kinds]string{"chunk", "probe", "object", "attachments", "pointer", "swap", "list", "other"}

// conflict is the outcome of a swap that somebody else was faster with; the others are
// a tier.Class.
const (
	conflict = int(tier.Failed) + 1
	outcomes = conflict + 1
)

func outcomeName(i int) string {
	if i == conflict {
		return "conflict"
	}
	return tier.Class(i).String()
}

// Origins counts what the origins of a process are asked, and the alarms that they
// raise. The zero value is ready. Its methods may be called by any number of
// goroutines.
type Origins struct {
	requests [kinds][outcomes]atomic.Int64
	bytes    [kinds]atomic.Int64
	alarms   [len(alarmReasons) + 1]atomic.Int64 // the last: of other reasons

	mu     sync.Mutex
	limits []*tier.Limit
}

// alarmReasons are those there are; see generation.
var alarmReasons = [...]struct{ reason, name string }{
	{generation.ReasonExpired, "expired"},
	{generation.ReasonMissing, "missing"},
	{generation.ReasonGone, "gone"},
	{generation.ReasonWanted, "wanted"},
}

// The metrics of Origins.
var (
	originSet set

	originRequests = originSet.counter("origin_requests_total", "Requests to origins, by what was asked for and how it ended; a store may send several over the network for one, and again.", "kind", "outcome")
	originBytes    = originSet.counter("origin_received_bytes_total", "Bytes that origins answered, by what was asked for.", "kind")
	alarms         = originSet.counter("alarms_total", "Alarms raised: something was needed that garbage collection takes for done with. Nothing is deleted until a person has looked ('rivulet gc alarms').", "reason")
)

// Alarm counts an alarm; it is a generation.Options.OnAlarm.
func (o *Origins) Alarm(a generation.Alarm) {
	for i := range alarmReasons {
		if a.Reason == alarmReasons[i].reason {
			o.alarms[i].Add(1)
			return
		}
	}
	o.alarms[len(alarmReasons)].Add(1)
}

// Limited has the state of a bound of what an origin is asked shown, summed up with
// others.
func (o *Origins) Limited(l *tier.Limit) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.limits = append(o.limits, l)
}

func (o *Origins) collect(out sink) {
	for k := range kinds {
		for i := range outcomes {
			if n := o.requests[k][i].Load(); n > 0 || i == int(tier.OK) {
				out.put(originRequests, n, kindNames[k], outcomeName(i))
			}
		}
		out.put(originBytes, o.bytes[k].Load(), kindNames[k])
	}
	for i := range alarmReasons {
		out.put(alarms, o.alarms[i].Load(), alarmReasons[i].name)
	}
	out.put(alarms, o.alarms[len(alarmReasons)].Load(), "other")
	var sum tier.LimitStats
	o.mu.Lock()
	for _, l := range o.limits {
		s := l.Stats()
		sum.Passed += s.Passed
		sum.Waited += s.Waited
		sum.Abandoned += s.Abandoned
		sum.Refused += s.Refused
		sum.InFlight += s.InFlight
		sum.Waiting += s.Waiting
	}
	o.mu.Unlock()
	out.limit("origin", &sum)
}

// done counts a request that ended so, and brought so many bytes.
func (o *Origins) done(k kind, bytes int, err error) {
	outcome := int(tier.Classify(err))
	switch {
	case errors.Is(err, origin.ErrConflict):
		outcome = conflict
	case errors.Is(err, origin.ErrCorrupt):
		outcome = int(tier.Damaged)
	}
	o.requests[k][outcome].Add(1)
	o.bytes[k].Add(int64(bytes))
}

// Counted returns an origin that counts what it is asked.
func (o *Origins) Counted(from origin.Origin) origin.Origin {
	return countedOrigin{counted{from, o}, from}
}

type countedOrigin struct {
	counted
	from origin.Origin
}

// Generation implements [origin.Origin].
func (c countedOrigin) Generation(id origin.GenerationID) origin.Store {
	from := c.from.Generation(id)
	return countedStore{from, counted{from, c.o}}
}

// ListGenerations implements [origin.Origin].
func (c countedOrigin) ListGenerations(ctx context.Context, fn func(id origin.GenerationID) error) error {
	err := c.from.ListGenerations(ctx, fn)
	c.o.done(askList, 0, err)
	return err
}

// DeleteGeneration implements [origin.Origin].
func (c countedOrigin) DeleteGeneration(ctx context.Context, id origin.GenerationID, tell func(removed int)) error {
	err := c.from.DeleteGeneration(ctx, id, tell)
	c.o.done(askOther, 0, err)
	return err
}

// CopyChunk implements [origin.Origin].
func (c countedOrigin) CopyChunk(ctx context.Context, id chunk.ID, from, to origin.GenerationID) (bool, error) {
	added, err := c.from.CopyChunk(ctx, id, from, to)
	c.o.done(askOther, 0, err)
	return added, err
}

// counted counts what is asked of pointers.
type counted struct {
	pointers origin.Pointers
	o        *Origins
}

// GetPointer implements [origin.Pointers].
func (c counted) GetPointer(ctx context.Context, name string) ([]byte, error) {
	b, err := c.pointers.GetPointer(ctx, name)
	c.o.done(askPointer, len(b), err)
	return b, err
}

// SwapPointer implements [origin.Pointers].
func (c counted) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	err := c.pointers.SwapPointer(ctx, name, old, new)
	c.o.done(askSwap, 0, err)
	return err
}

// ListPointers implements [origin.Pointers].
func (c counted) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	err := c.pointers.ListPointers(ctx, prefix, fn)
	c.o.done(askList, 0, err)
	return err
}

// A countedStore counts what readers ask. What only publishers and collectors do, it
// passes on.
type countedStore struct {
	origin.Store
	counted counted
}

// GetPointer implements [origin.Pointers].
func (c countedStore) GetPointer(ctx context.Context, name string) ([]byte, error) {
	return c.counted.GetPointer(ctx, name)
}

// SwapPointer implements [origin.Pointers].
func (c countedStore) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	return c.counted.SwapPointer(ctx, name, old, new)
}

// ListPointers implements [origin.Pointers].
func (c countedStore) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	return c.counted.ListPointers(ctx, prefix, fn)
}

// Fetch implements [chunk.Source].
func (c countedStore) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	n, err := c.Store.Fetch(ctx, id, dst, off)
	c.counted.o.done(askChunk, n, err)
	return n, err
}

// Stat implements [chunk.Prober].
func (c countedStore) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	size, err := c.Store.Stat(ctx, id)
	c.counted.o.done(askProbe, 0, err)
	return size, err
}

// GetObject implements [origin.Objects].
func (c countedStore) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	b, err := c.Store.GetObject(ctx, d, max)
	c.counted.o.done(askObject, len(b), err)
	return b, err
}

// ListAttachments implements [origin.Attachments].
func (c countedStore) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func(data []byte) error) error {
	bytes := 0
	err := c.Store.ListAttachments(ctx, subject, kind, func(data []byte) error {
		bytes += len(data)
		return fn(data)
	})
	c.counted.o.done(askAttachments, bytes, err)
	return err
}
