package tier_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/tier"
	"github.com/rivuletfs/rivulet/tier/tiertest"
)

// BenchmarkLayer measures what a layer adds to a read of 4 KiB that takes no
// time, by one reader and by many. "None" is the read alone.
func BenchmarkLayer(b *testing.B) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	held := tiertest.Holding([]chunktest.Object{o})
	for _, c := range []struct {
		name   string
		layers []tier.Layer
	}{
		{"None", nil},
		{"Limit", []tier.Layer{&tier.Limit{Concurrent: 64}}},
		{"LimitRate", []tier.Layer{&tier.Limit{Concurrent: 64, Requests: tier.Bucket{PerSecond: 1e9}, Bytes: tier.Bucket{PerSecond: 1e15}}}},
		{"Breaker", []tier.Layer{&tier.Breaker{}}},
		{"Timeout", []tier.Layer{&tier.Timeout{}}},
		{"Hedge", []tier.Layer{&tier.Hedge{}}},
		{"Coalesce", []tier.Layer{&tier.Coalesce{}}},
		{"Observe", []tier.Layer{tier.Observe("bench", func(context.Context, tier.Event) {})}},
	} {
		src := tier.Source(held, c.layers...)
		b.Run(c.name, func(b *testing.B) {
			dst := make([]byte, 4096)
			b.SetBytes(int64(len(dst)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := src.Fetch(context.Background(), o.ID, dst, 8192); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"Parallel", func(b *testing.B) {
			b.SetBytes(4096)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				dst := make([]byte, 4096)
				for pb.Next() {
					if _, err := src.Fetch(context.Background(), o.ID, dst, 8192); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkLimitQueue measures a read that waits in line behind others: 256
// readers of all priorities and 16 flows share 8 places.
func BenchmarkLimitQueue(b *testing.B) {
	l := &tier.Limit{Concurrent: 8}
	var contexts []context.Context
	for i := range 256 {
		ctx := tier.WithFlow(context.Background(), fmt.Sprint(i%16))
		contexts = append(contexts, chunk.WithPriority(ctx, chunk.Priority(i%chunk.Priorities)))
	}
	b.ReportAllocs()
	b.SetParallelism(128)
	next := make(chan context.Context, 4096)
	for range 16 {
		for _, ctx := range contexts {
			next <- ctx
		}
	}
	b.RunParallel(func(pb *testing.PB) {
		ctx := <-next
		for pb.Next() {
			g, err := l.Acquire(ctx, 4096)
			if err != nil {
				b.Error(err)
				return
			}
			g.Release(4096)
		}
	})
}

// BenchmarkStack measures a read that the nearest cache of three tiers serves.
func BenchmarkStack(b *testing.B) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	full := &cache{held: tiertest.Holding([]chunktest.Object{o})}
	s := tier.NewStack(chunk.NewDoor(full), full.tier(), full.tier())
	defer s.Close()
	dst := make([]byte, o.Header.FrameOffset(4)-o.Header.FrameOffset(3))
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.ReadChunk(context.Background(), o.ID, dst, o.Header.FrameOffset(3)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkChunk measures a read of a whole chunk, which hedges and flights copy
// once more.
func BenchmarkChunk(b *testing.B) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	held := tiertest.Holding([]chunktest.Object{o})
	for _, c := range []struct {
		name   string
		layers []tier.Layer
	}{
		{"None", nil},
		{"Recommended", []tier.Layer{&tier.Coalesce{}, &tier.Hedge{Min: time.Second}, &tier.Limit{Concurrent: 64}, &tier.Breaker{}, &tier.Timeout{}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			src := tier.Source(held, c.layers...)
			dst := make([]byte, len(o.Bytes))
			b.SetBytes(int64(len(dst)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := src.Fetch(context.Background(), o.ID, dst, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
