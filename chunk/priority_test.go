package chunk

import (
	"context"
	"slices"
	"testing"
)

func TestPriority(t *testing.T) {
	ctx := context.Background()
	if p := PriorityOf(ctx); p != Demand {
		t.Errorf("priority of a plain context: %v, want demand", p)
	}
	for p := range Priority(Priorities) {
		if got := PriorityOf(WithPriority(ctx, p)); got != p {
			t.Errorf("priority %v came back as %v", p, got)
		}
	}
	if got := PriorityOf(WithPriority(ctx, 200)); got != Fill {
		t.Errorf("an unknown priority is %v, want fill", got)
	}
	if got := Prefetch.String(); got != "prefetch" {
		t.Errorf("Prefetch is called %q", got)
	}
}

// A place records what it was raised to.
type place struct{ raised []Priority }

func (p *place) Raise(to Priority) { p.raised = append(p.raised, to) }

func TestUrgency(t *testing.T) {
	u := NewUrgency(Fill)
	ctx := WithUrgency(context.Background(), u)
	if UrgencyOf(ctx) != u || PriorityOf(ctx) != Fill {
		t.Errorf("in a context: %v, %v", UrgencyOf(ctx), PriorityOf(ctx))
	}
	if plain := WithPriority(ctx, Prefetch); UrgencyOf(plain) != nil || PriorityOf(plain) != Prefetch {
		t.Error("a priority given further in does not hold")
	}
	first, late := new(place), new(place)
	u.Watch(first, Fill)
	u.Raise(Prefetch)
	u.Raise(Fill)                 // lower: nothing
	u.Watch(late, Fill)           // finds it raised
	u.Watch(new(place), Prefetch) // does not
	u.Unwatch(first)
	u.Raise(Demand)
	if PriorityOf(ctx) != Demand {
		t.Errorf("raised to %v, want demand", PriorityOf(ctx))
	}
	if want := []Priority{Prefetch}; !slices.Equal(first.raised, want) {
		t.Errorf("the one that left was raised to %v, want %v", first.raised, want)
	}
	if want := []Priority{Prefetch, Demand}; !slices.Equal(late.raised, want) {
		t.Errorf("the one that came late was raised to %v, want %v", late.raised, want)
	}
	var none *Urgency
	none.Raise(Demand) // a context without one is no special case
}
