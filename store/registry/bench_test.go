package registry

import (
	"context"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// The registry of these is in the same process: what they tell of is the cost
// of a request here, and of its handling there.

func BenchmarkSource(b *testing.B) {
	_, host := faulty(b, true)
	chunktest.BenchmarkSource(b, hasty(b, host, Options{}).Generation(1))
}

func BenchmarkDoor(b *testing.B) {
	_, host := faulty(b, true)
	chunktest.BenchmarkDoor(b, hasty(b, host, Options{}).Generation(1))
}

// BenchmarkPut stores new chunks of 64 KiB; what it takes to upload them is in
// it.
func BenchmarkPut(b *testing.B) {
	ctx := context.Background()
	_, host := faulty(b, true)
	s := hasty(b, host, Options{}).Generation(1)
	o := chunktest.Random(1, chunk.FrameSize, chunk.FrameSize)
	b.SetBytes(int64(len(o.Bytes)))
	b.ReportAllocs()
	for n := uint64(2); b.Loop(); n++ {
		b.StopTimer()
		o = chunktest.Random(n, chunk.FrameSize, chunk.FrameSize)
		b.StartTimer()
		if _, err := s.Put(ctx, o.ID, o.Bytes); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Flush(ctx); err != nil {
		b.Fatal(err)
	}
}
