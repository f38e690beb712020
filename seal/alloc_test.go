//go:build !race

// Under the race detector pools drop things at random.

package seal_test

import (
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

func TestAllocations(t *testing.T) {
	s := newSealer(t, seal.Options{})
	o := newOpener(t, nil)
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
		dst := make([]byte, chunk.FrameSize)
		if n := testing.AllocsPerRun(50, func() { _, err = o.OpenFrame(dst, &h, c.Key, 0, stored) }); n >= 1 || err != nil {
			t.Errorf("%s: OpenFrame: %v allocations, %v", name, n, err)
		}
		if n := testing.AllocsPerRun(50, func() { _, err = s.Seal(plain) }); n >= 1 || err != nil {
			t.Errorf("%s: Seal: %v allocations, %v", name, n, err)
		}
	}
}
