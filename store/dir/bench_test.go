package dir

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/rivuletfs/rivulet/seal"
)

// BenchmarkPut stores chunks of 300 KiB, durably, by four goroutines a CPU.
func BenchmarkPut(b *testing.B) {
	const size = 300 << 10
	s := open(b, b.TempDir())
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		b.Fatal(err)
	}
	var seed atomic.Uint64
	b.SetBytes(size)
	b.ReportAllocs()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		rng := rand.New(rand.NewPCG(1, seed.Add(1)))
		sealer, err := seal.NewSealer(seal.Options{Salt: salt, Policy: seal.NeverCode})
		if err != nil {
			b.Error(err)
			return
		}
		plain := make([]byte, size)
		for i := range plain {
			plain[i] = byte(rng.Uint32()) | 1
		}
		for pb.Next() {
			plain[rng.IntN(size)] ^= 2
			c, err := sealer.Seal(plain)
			if err != nil {
				b.Error(err)
				return
			}
			if _, err := s.Put(context.Background(), c.ID, c.Object); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
