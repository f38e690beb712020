package tier_test

import (
	"context"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/tier"
	"github.com/rivuletfs/rivulet/tier/tiertest"
)

// TestLayers runs the suite for every layer and for nestings in the order that
// is recommended, and in others.
func TestLayers(t *testing.T) {
	var (
		limit = func() tier.Layer { return &tier.Limit{Concurrent: 8, Queue: 10} }
		rate  = func() tier.Layer {
			return &tier.Limit{Requests: tier.Bucket{PerSecond: 2000}, Bytes: tier.Bucket{PerSecond: 1 << 30}}
		}
		breaker   = func() tier.Layer { return &tier.Breaker{} }
		timeout   = func() tier.Layer { return &tier.Timeout{} }
		hedge     = func() tier.Layer { return &tier.Hedge{Share: 0.5} }
		coalesce  = func() tier.Layer { return &tier.Coalesce{} }
		observe   = func() tier.Layer { return tier.Observe("test", func(context.Context, tier.Event) {}) }
		impatient = func() tier.Layer { return &tier.Timeout{Min: 5 * time.Millisecond, Max: time.Second} }
	)
	gated := func() tier.Layer { // a breaker and its gate are made together
		b := &tier.Breaker{}
		return around{b.Gate(), &tier.Limit{Concurrent: 8}, b, &tier.Timeout{}}
	}
	for name, list := range map[string][]func() tier.Layer{
		"None":             {},
		"Limit":            {limit},
		"Rate":             {rate},
		"Breaker":          {breaker},
		"Timeout":          {timeout},
		"Hedge":            {hedge},
		"Coalesce":         {coalesce},
		"Observe":          {observe},
		"CoalesceTwice":    {coalesce, coalesce},
		"HedgeCoalesce":    {hedge, coalesce},
		"Recommended":      {observe, coalesce, hedge, limit, breaker, timeout},
		"RecommendedRate":  {observe, coalesce, hedge, rate, limit, breaker, impatient},
		"Gated":            {gated},
		"Reverse":          {timeout, breaker, limit, hedge, coalesce, observe},
		"LimitInsideHedge": {limit, hedge, limit, timeout},
	} {
		t.Run(name, func(t *testing.T) {
			tiertest.TestLayer(t, func() []tier.Layer {
				var layers []tier.Layer
				for _, open := range list {
					layers = append(layers, open())
				}
				return layers
			})
		})
	}
}

// around is layers as one.
type around []tier.Layer

// Read implements [tier.Layer].
func (a around) Read(ctx context.Context, next tier.Next, id chunk.ID, dst []byte, off int64) (int, error) {
	return tier.Source(fetch(next), a...).Fetch(ctx, id, dst, off)
}

// fetch is a function as a source.
type fetch tier.Next

// Fetch implements [chunk.Source].
func (f fetch) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	return f(ctx, id, dst, off)
}
