package start

import (
	"math/rand/v2"
	"testing"
)

// TestOrder wants each chunk once, wherever readers jump, and the next one behind them.
func TestOrder(t *testing.T) {
	const n = 500
	rng := rand.New(rand.NewPCG(5, 6))
	left := make(map[int]bool)
	var todo []int
	for i := range n {
		if i%7 != 0 {
			todo, left[i] = append(todo, i), true
		}
	}
	o := newOrder(n, todo)
	for len(left) > 0 {
		if rng.IntN(3) == 0 {
			o.from = rng.IntN(n + 1)
		}
		want := o.from
		for !left[want%n] {
			want++
		}
		pos, ok := o.peek()
		if !ok || pos != want%n || !o.has(pos) {
			t.Fatalf("%d, %v, want %d, from %d on", pos, ok, want%n, o.from)
		}
		o.take()
		delete(left, pos)
	}
	if pos, ok := o.peek(); ok {
		t.Errorf("%d is left", pos)
	}
	if o := newOrder(0, nil); o.left != 0 {
		t.Error("an empty disk has chunks")
	}
}
