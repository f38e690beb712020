package overlay_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/overlay"
)

// BenchmarkWrite writes 4 KiB at random places: for the first time, and again.
func BenchmarkWrite(b *testing.B) {
	const blocks = 1 << 15
	base := blockdevtest.NewMemory(make([]byte, blocks*4096), nil)
	for _, again := range []bool{false, true} {
		b.Run(map[bool]string{false: "first", true: "again"}[again], func(b *testing.B) {
			o, err := overlay.Create(filepath.Join(b.TempDir(), "o"), base, overlay.Options{})
			if err != nil {
				b.Fatal(err)
			}
			if again {
				write(b, o, 0, ones(blocks*4096))
			}
			order := rand.New(rand.NewPCG(1, 1)).Perm(blocks)
			p := ones(4096)
			b.SetBytes(4096)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n == blocks && !again {
					b.StopTimer()
					if err := o.Discard(0, o.Size()); err != nil {
						b.Fatal(err)
					}
					flush(b, o)
					n = 0
					b.StartTimer()
				}
				if _, err := o.WriteAt(p, int64(order[n%blocks])*4096); err != nil {
					b.Fatal(err)
				}
				n++
			}
			if err := o.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkDepth reads 4 KiB at random places of a stack, and opens it, at two
// depths.
func BenchmarkDepth(b *testing.B) {
	const blocks = 1 << 14
	base := blockdevtest.NewMemory(make([]byte, blocks*4096), nil)
	for _, depth := range []int{1, 64} {
		dir := filepath.Join(b.TempDir(), "o")
		o, err := overlay.Create(dir, base, overlay.Options{})
		if err != nil {
			b.Fatal(err)
		}
		order := rand.New(rand.NewPCG(1, 1)).Perm(blocks)
		for i, block := range order {
			write(b, o, int64(block)*4096, ones(4096))
			if i%(blocks/depth) == blocks/depth-1 && o.Stats().Layers < depth {
				if err := snapshot(b, o).Close(); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run(fmt.Sprintf("read/layers=%d", depth), func(b *testing.B) {
			p := make([]byte, 4096)
			n := 0
			for b.Loop() {
				if _, err := o.ReadAt(p, int64(order[n%blocks])*4096); err != nil {
					b.Fatal(err)
				}
				n++
			}
		})
		if err := o.Close(); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("open/layers=%d", depth), func(b *testing.B) {
			for b.Loop() {
				o, err := overlay.Open(dir, base, overlay.Options{})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := o.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
