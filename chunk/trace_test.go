package chunk

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestTrace(t *testing.T) {
	var nobody *Trace
	nobody.Add(Step{Tier: Origin})
	if s, more := nobody.Steps(); s != nil || more != 0 || nobody.Reached() != Nowhere || TraceOf(t.Context()) != nil {
		t.Error("there is a trace that nobody began")
	}
	tr := &Trace{}
	ctx := WithTrace(t.Context(), tr)
	if TraceOf(ctx) != tr || tr.Reached() != Nowhere {
		t.Fatal("a trace does not travel, or has reached something")
	}
	failed := errors.New("failed")
	zone := Traced(readerFunc(func() (int, error) { return 0, failed }), Zone)
	cache := Traced(readerFunc(func() (int, error) { return 3, nil }), HostCache)
	for _, r := range []Reader{zone, cache} {
		if n, err := r.ReadChunk(ctx, ID{7}, make([]byte, 5), 11); n == 3 != (err == nil) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	if _, err := cache.ReadChunk(t.Context(), ID{7}, nil, 0); err != nil { // untraced
		t.Error(err)
	}
	if tr.Reached() != HostCache {
		t.Errorf("a read reached %v, want what had the bytes", tr.Reached())
	}
	steps, _ := tr.Steps()
	for i, want := range []Step{{Tier: Zone, Err: failed}, {Tier: HostCache}} {
		want.ID, want.Offset, want.Bytes = ID{7}, 11, 5
		got := steps[i]
		if got.Begun.IsZero() || got.Took < 0 {
			t.Errorf("step %d took %v from %v on", i, got.Took, got.Begun)
		}
		if got.Begun, got.Took = want.Begun, 0; got != want {
			t.Errorf("step %d is %+v, want %+v", i, got, want)
		}
	}
	var all sync.WaitGroup
	for range 2 * MaxSteps {
		all.Go(func() { tr.Add(Step{Tier: Origin, Begun: time.Now()}) })
	}
	all.Wait()
	if steps, more := tr.Steps(); len(steps) != MaxSteps || more != 2+MaxSteps || tr.Reached() != Origin {
		t.Errorf("%d steps and %d more, reached %v", len(steps), more, tr.Reached())
	}
	each := 0
	tr.Each(func(*Step) { each++ })
	if each != MaxSteps {
		t.Errorf("%d steps one by one", each)
	}
}

func TestTierNames(t *testing.T) {
	for i, want := range []string{"none", "memory", "cache", "zone", "origin", "none"} {
		if got := Tier(i).String(); got != want {
			t.Errorf("tier %d is called %q, want %q", i, got, want)
		}
	}
	if Tier(200).String() != "none" || int(Origin) != Tiers-1 {
		t.Error("a tier that there is not has a name, or Tiers is wrong")
	}
}

type readerFunc func() (int, error)

func (f readerFunc) ReadChunk(context.Context, ID, []byte, int64) (int, error) { return f() }
