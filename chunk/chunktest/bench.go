package chunktest

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

// BenchmarkSource measures whole objects and single frames of usual chunks.
func BenchmarkSource(b *testing.B, s Store) {
	benchmarkRead(b, s, s.Fetch)
}

// BenchmarkDoor is BenchmarkSource through a Door: what is read is checked.
func BenchmarkDoor(b *testing.B, s Store) {
	benchmarkRead(b, s, chunk.NewDoor(s).ReadChunk)
}

func benchmarkRead(b *testing.B, s chunk.Sink, read readFunc) {
	var objects []Object
	for i := range 64 {
		o := Random(uint64(i), chunk.Size, chunk.FrameSize)
		if _, err := s.Put(context.Background(), o.ID, o.Bytes); err != nil {
			b.Fatal(err)
		}
		objects = append(objects, o)
	}
	if err := s.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
	h := &objects[0].Header
	b.Run("Object", func(b *testing.B) { benchmarkRange(b, objects, read, 0, h.StoredSize()) })
	b.Run("Frame", func(b *testing.B) {
		benchmarkRange(b, objects, read, h.FrameOffset(3), h.FrameOffset(4)-h.FrameOffset(3))
	})
	b.Run("PartOfFrame", func(b *testing.B) { benchmarkRange(b, objects, read, h.FrameOffset(3)+4096, 4096) })
}

func benchmarkRange(b *testing.B, objects []Object, read readFunc, off, n int64) {
	var next atomic.Int64
	b.SetBytes(n)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		dst := make([]byte, n)
		for pb.Next() {
			o := &objects[next.Add(1)%int64(len(objects))]
			if _, err := read(context.Background(), o.ID, dst, off); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
