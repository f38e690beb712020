package overlay_test

import (
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
