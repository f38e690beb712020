package seal_test

import (
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

// kinds are plaintexts by how they compress; doc/format/chunk.md has the
// numbers of real files.
var kinds = map[string][]byte{"text": seq(80_000)[:chunk.Size-8], "mixed": mixed(chunk.Size), "noise": noise(1, chunk.Size)}

func BenchmarkSeal(b *testing.B) {
	for name, plain := range kinds {
		b.Run(name, func(b *testing.B) {
			s := newSealer(b, seal.Options{})
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Seal(plain); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenFrame(b *testing.B) {
	o := newOpener(b)
	for name, plain := range kinds {
		c, err := newSealer(b, seal.Options{}).Seal(plain)
		if err != nil {
			b.Fatal(err)
		}
		h, err := chunk.ParseHeader(c.Object)
		if err != nil {
			b.Fatal(err)
		}
		stored := slices.Clone(c.Object[h.FrameOffset(1):h.FrameOffset(2)])
		b.Run(name, func(b *testing.B) {
			b.SetBytes(chunk.FrameSize)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				dst := make([]byte, chunk.FrameSize)
				for pb.Next() {
					if _, err := o.OpenFrame(dst, &h, c.Key, 1, stored); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
