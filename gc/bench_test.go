package gc_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/dir"
)

// BenchmarkRun measures a collector with 20 images of 50 chunks in a directory:
// the run that copies them to a new generation, and one that finds that done.
func BenchmarkRun(b *testing.B) {
	const images, chunks = 20, 50
	make := func(b *testing.B) *gc.Collector {
		o, err := dir.Open(b.TempDir(), true)
		if err != nil {
			b.Fatal(err)
		}
		f := generation.Forwarder{Origin: o}
		for i := range images {
			img := blockmaptest.Small(uint64(i), chunks)
			_, _, err := f.Publish(ctx, fmt.Sprint("image", i), func(_ context.Context, g origin.GenerationID) (origin.Digest, error) {
				return img.Digest(), img.Put(ctx, o.Generation(g))
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		if _, err := generation.New(ctx, o, 1, time.Now()); err != nil {
			b.Fatal(err)
		}
		return &gc.Collector{Origin: o, Policy: gc.DefaultPolicy}
	}
	run := func(b *testing.B, c *gc.Collector, copied int) {
		r, err := c.Run(ctx)
		if err != nil || r.Copied != copied {
			b.Fatalf("%+v, %v", r, err)
		}
	}
	b.Run("copy", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			b.StopTimer()
			c := make(b)
			b.StartTimer()
			run(b, c, images*chunks)
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*images*chunks), "µs/chunk")
	})
	b.Run("again", func(b *testing.B) {
		c := make(b)
		run(b, c, images*chunks)
		b.ReportAllocs()
		for b.Loop() {
			run(b, c, 0)
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*images), "µs/image")
	})
}
