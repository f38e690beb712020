package chunk

import (
	"context"
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
