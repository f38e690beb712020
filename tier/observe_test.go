package tier_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/tier"
)

func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := chunktest.Random(1, 1000, chunk.FrameSize)
		type key struct{}
		var got []tier.Event
		src := tier.Source(slowly(&o), tier.Observe("origin", func(ctx context.Context, e tier.Event) {
			if ctx.Value(key{}) != 1 {
				t.Error("not the read's context")
			}
			got = append(got, e)
		}))
		ctx := chunk.WithPriority(context.WithValue(t.Context(), key{}, 1), chunk.Prefetch)
		begun := time.Now()
		if _, err := src.Fetch(ctx, o.ID, make([]byte, 5000), 7); err != nil {
			t.Fatal(err)
		}
		_, missed := src.Fetch(ctx, chunktest.Absent, make([]byte, 10), 0)
		want := []tier.Event{
			{Tier: "origin", ID: o.ID, Offset: 7, Asked: 5000, Bytes: len(o.Bytes) - 7, Begun: begun, Latency: 100 * time.Millisecond, Priority: chunk.Prefetch},
			{Tier: "origin", ID: chunktest.Absent, Asked: 10, Begun: begun.Add(100 * time.Millisecond), Latency: 100 * time.Millisecond, Priority: chunk.Prefetch, Err: missed},
		}
		if !slices.Equal(got, want) {
			t.Errorf("events %+v, want %+v", got, want)
		}
	})
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, "ok"},
		{chunk.ErrNotFound, "missed"},
		{&chunk.CorruptError{}, "damaged"},
		{context.Canceled, "cancelled"},
		{context.DeadlineExceeded, "timeout"},
		{tier.ErrTimeout, "timeout"},
		{tier.ErrOverloaded, "overloaded"},
		{tier.ErrOpen, "overloaded"},
		{errors.New("test"), "failed"},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("read: %w", err)
		}
		if got := tier.Classify(err).String(); got != c.want {
			t.Errorf("%v is %s, want %s", c.err, got, c.want)
		}
	}
}
