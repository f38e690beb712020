package slowread

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
)

// Trace returns a function that makes spans of each slow read. It is a
// disk.Options.OnSlow.
func Trace(p trace.TracerProvider) func(*disk.SlowRead) {
	t := tracer{p.Tracer("github.com/rivuletfs/rivulet")}
	return t.read
}

type tracer struct{ trace.Tracer }

// Attributes of spans. Offsets of a read and a fetch are those on the disk, of others
// those in the chunk; all are bytes.
const (
	keyAttachment = attribute.Key("rivulet.attachment")
	keyDisk       = attribute.Key("rivulet.disk")
	keyChunk      = attribute.Key("rivulet.chunk")
	keyOffset     = attribute.Key("rivulet.offset")
	keyLength     = attribute.Key("rivulet.length")
	keyTier       = attribute.Key("rivulet.tier")
	keyHad        = attribute.Key("rivulet.had")       // whether the tier had it
	keyQueued     = attribute.Key("rivulet.queued_us") // µs in line for a place among the fetches
	keyMore       = attribute.Key("rivulet.more")      // how many more there were, that no span tells of
)

// span makes one span, and returns the context of those below it.
func (t tracer) span(ctx context.Context, name string, begun, ended time.Time, err error, attrs ...attribute.KeyValue) context.Context {
	ctx, s := t.Start(ctx, name, trace.WithTimestamp(begun), trace.WithAttributes(attrs...))
	if err != nil {
		s.SetStatus(codes.Error, err.Error())
	}
	s.End(trace.WithTimestamp(ended))
	return ctx
}

func (t tracer) read(r *disk.SlowRead) {
	ctx := t.span(context.Background(), "read", r.Begun, r.Begun.Add(r.Wait), r.Err,
		keyAttachment.String(r.Reader), keyDisk.String(r.Disk), keyOffset.Int64(r.Offset), keyLength.Int(r.Length),
		keyTier.String(r.Tier.String()), keyMore.Int(r.More))
	t.span(ctx, chunk.Memory.String(), r.Begun, r.Begun, nil, keyHad.Bool(false))
	for i := range r.Fetches {
		t.fetch(ctx, r, &r.Fetches[i])
	}
}

// end is when the last step of f ended.
func end(f *disk.SlowFetch) time.Time {
	last := f.Demanded.Add(f.Queued)
	for i := range f.Steps {
		if e := stepEnd(&f.Steps[i]); e.After(last) {
			last = e
		}
	}
	return last
}

func stepEnd(s *chunk.Step) time.Time { return s.Begun.Add(s.Took) }

// inTier returns how long f waited for a tier in all, and whether that was asked.
func inTier(f *disk.SlowFetch, t chunk.Tier) (sum time.Duration, asked bool) {
	for i := range f.Steps {
		if s := &f.Steps[i]; s.Tier == t {
			sum, asked = sum+s.Took, true
		}
	}
	return sum, asked
}

// fetch makes the spans of a fetch. What was begun before the read, for another one, is
// shown from the read's begin on.
func (t tracer) fetch(ctx context.Context, r *disk.SlowRead, f *disk.SlowFetch) {
	ctx = t.span(ctx, "fetch", latest(f.Demanded, r.Begun), latest(end(f), r.Begun), f.Err,
		keyChunk.String(f.Chunk.String()), keyOffset.Int64(f.Offset), keyLength.Int(f.Length),
		keyTier.String(f.Tier.String()), keyQueued.Int64(f.Queued.Microseconds()), keyMore.Int(f.MoreSteps))
	under := make([]context.Context, len(f.Steps))
	for tier := chunk.HostCache; tier <= chunk.Origin; tier++ { // those further away lie within the nearer ones
		for i := range f.Steps {
			s := &f.Steps[i]
			if s.Tier != tier {
				continue
			}
			parent := ctx
			for j := range f.Steps {
				if within(s, &f.Steps[j]) {
					parent = under[j]
				}
			}
			under[i] = t.span(parent, s.Tier.String(), latest(s.Begun, r.Begun), latest(stepEnd(s), r.Begun), s.Err,
				keyChunk.String(s.ID.String()), keyOffset.Int64(s.Offset), keyLength.Int(s.Bytes), keyHad.Bool(s.Err == nil))
		}
	}
}

// within reports whether s was a part of the step outer: the host cache's, which asks
// others.
func within(s, outer *chunk.Step) bool {
	return outer.Tier == chunk.HostCache && s.Tier > outer.Tier && stepEnd(s).After(outer.Begun) && !stepEnd(s).After(stepEnd(outer))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
