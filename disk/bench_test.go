package disk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// warm returns a disk of 40 chunks, all in memory.
func warm(b *testing.B) *Disk {
	im := newImage(b, 40, 40)
	d := im.open(b, im.reader(), Options{})
	if _, err := d.ReadAt(make([]byte, len(im.flat)), 0); err != nil {
		b.Fatal(err)
	}
	return d
}

func BenchmarkWarm(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			d := warm(b)
			var seed atomic.Uint64
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				rng := rand.New(rand.NewPCG(seed.Add(1), 0))
				buf, slots := make([]byte, size), d.Size()/int64(size)
				for pb.Next() {
					if _, err := d.ReadAt(buf, rng.Int64N(slots)*int64(size)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkCold reads 4 KiB of each chunk of an empty disk, 16 reads at once,
// from a source with 5 ms of latency.
func BenchmarkCold(b *testing.B) {
	im := newImage(b, 80, 41)
	b.ReportAllocs()
	b.SetBytes(int64(80 * 4096))
	for b.Loop() {
		r := im.reader()
		r.before = func(context.Context, int) error { time.Sleep(5 * time.Millisecond); return nil }
		d := im.open(b, r, Options{})
		var next atomic.Int64
		together(16, func(int) {
			buf := make([]byte, 4096)
			for i := next.Add(1) - 1; i < 80; i = next.Add(1) - 1 {
				if _, err := d.ReadAt(buf, i*chunkSize+i*4096%chunkSize); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(r.most.Load()), "in-flight")
		b.ReportMetric(float64(r.calls.Load()), "requests")
	}
}
