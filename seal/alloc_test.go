//go:build !race

// Under the race detector pools drop things at random.

package seal_test

import (
	"runtime"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

// What the standard library's ciphers take: expanded key, counter block and
// stream of AES-CTR to open a frame; HKDF and those, a frame, to seal a chunk.
const (
	openAllocations = 3
	sealBytes       = 16 << 10
)

func TestAllocations(t *testing.T) {
	s := newSealer(t, seal.Options{})
	o := newOpener(t)
	for name, plain := range map[string][]byte{"zstd": text(chunk.Size), "raw": noise(1, chunk.Size)} {
		c, err := s.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		h, err := chunk.ParseHeader(c.Object)
		if err != nil {
			t.Fatal(err)
		}
		stored := slices.Clone(c.Object[h.FrameOffset(0):h.FrameOffset(1)])
		work, dst := make([]byte, len(stored)), make([]byte, chunk.FrameSize)
		n := testing.AllocsPerRun(50, func() {
			copy(work, stored)
			if _, err := o.OpenFrame(dst, &h, c.Key, 0, work); err != nil {
				t.Fatal(err)
			}
		})
		if n > openAllocations {
			t.Errorf("%s: OpenFrame: %v allocations, want %d", name, n, openAllocations)
		}
		const runs = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if _, err := s.Seal(plain); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if b := (after.TotalAlloc - before.TotalAlloc) / runs; b > sealBytes {
			t.Errorf("%s: Seal allocates %d bytes, want at most %d", name, b, sealBytes)
		}
	}
}
