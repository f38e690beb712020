package disk

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/seal"
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

// BenchmarkTouched is what recording starts adds to the read of a frame that was read
// before, to be held against BenchmarkWarm.
func BenchmarkTouched(b *testing.B) {
	d := warm(b)
	p := piece{round: 1}
	d.locate(&p, 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		d.touch(&p)
	}
}

// BenchmarkCold reads 4 KiB of each of 80 pieces of a disk of which nothing is
// in memory, 16 reads at once, through the door from a source with 5 ms of
// latency. Pieces that are holes ask for nothing.
func BenchmarkCold(b *testing.B) {
	im := newImage(b, 80, 41)
	opener, err := seal.NewOpener()
	if err != nil {
		b.Fatal(err)
	}
	defer opener.Close()
	for _, mode := range modes {
		b.Run(mode.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(80 * 4096)
			for b.Loop() {
				src := &chunktest.Counting{Source: &chunktest.Slow{Source: im.chunks, Latency: 5 * time.Millisecond}}
				d, err := Open(im.m, chunk.NewDoor(src), Options{Mode: mode.mode, Opener: opener})
				if err != nil {
					b.Fatal(err)
				}
				readPieces(b, d)
				if err := d.Close(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(src.MaxInFlight.Load()), "in-flight")
				b.ReportMetric(float64(src.Requests.Load()), "requests")
				b.ReportMetric(float64(src.Bytes.Load())/(1<<20), "MiB-fetched")
			}
		})
	}
}

func readPieces(b *testing.B, d *Disk) {
	var next atomic.Int64
	together(16, func(int) {
		buf := make([]byte, 4096)
		for i := next.Add(1) - 1; i < 80; i = next.Add(1) - 1 {
			if _, err := d.ReadAt(buf, i*chunkSize+i*4096%chunkSize); err != nil {
				b.Error(err)
			}
		}
	})
}
