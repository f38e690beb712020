package chunk_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// checkedAfter returns what of the first n bytes of an object can be checked.
func checkedAfter(o *chunktest.Object, n int64) int64 {
	best := int64(0)
	for i := range len(o.Header.Frames) + 1 {
		if at := o.Header.FrameOffset(i); at <= n {
			best = at
		}
	}
	return best
}

func TestChecker(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, o := range chunktest.Objects(3) {
		for _, most := range []int{1, 7, 4096, len(o.Bytes)} {
			if most == 1 && len(o.Bytes) > 100_000 || testing.Short() && most < 4096 {
				continue // it would take long, and the race detector finds nothing in one goroutine
			}
			c := chunk.NewChecker(o.ID)
			for at := 0; at < len(o.Bytes); {
				n := min(1+rng.IntN(most), len(o.Bytes)-at)
				if m, err := c.Write(o.Bytes[at : at+n]); m != n || err != nil {
					t.Fatalf("Write at %d = %d, %v", at, m, err)
				}
				at += n
				if got, want := c.Checked(), checkedAfter(&o, int64(at)); got != want {
					t.Fatalf("Checked after %d bytes = %d, want %d", at, got, want)
				}
				if c.Complete() != (at == len(o.Bytes)) {
					t.Fatalf("Complete after %d of %d bytes = %v", at, len(o.Bytes), c.Complete())
				}
			}
			if c.Size() != int64(len(o.Bytes)) {
				t.Errorf("Size = %d, want %d", c.Size(), len(o.Bytes))
			}
			var corrupt *chunk.CorruptError
			if _, err := c.Write([]byte{0}); !errors.As(err, &corrupt) {
				t.Errorf("a byte more: %v; want a CorruptError", err)
			}
		}
	}
}

// TestCheckerDamage flips a bit: in the header it is found with the header, in
// a frame with the frame, and nothing from there on counts as checked.
func TestCheckerDamage(t *testing.T) {
	o := chunktest.Random(5, 200_000, chunk.FrameSize)
	head := o.Header.Len()
	places := []int{head, head + 1, head + chunk.FrameSize - 1, head + chunk.FrameSize, len(o.Bytes) - 1}
	for i := range head {
		places = append(places, i)
	}
	for _, at := range places {
		b := append([]byte(nil), o.Bytes...)
		b[at] ^= 1 << (at % 8)
		c := chunk.NewChecker(o.ID)
		var err error
		for i := 0; i < len(b) && err == nil; i += 1000 {
			_, err = c.Write(b[i:min(i+1000, len(b))])
		}
		var corrupt *chunk.CorruptError
		if !errors.As(err, &corrupt) || corrupt.ID != o.ID {
			t.Fatalf("byte %d: %v; want a CorruptError of the chunk", at, err)
		}
		if want := checkedAfter(&o, int64(at)); c.Checked() > want || c.Complete() {
			t.Fatalf("byte %d: %d bytes count as checked, want %d", at, c.Checked(), want)
		}
		if _, again := c.Write([]byte{1}); !errors.Is(again, err) {
			t.Fatalf("byte %d: later Write: %v", at, again)
		}
	}
}

func BenchmarkChecker(b *testing.B) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	b.SetBytes(int64(len(o.Bytes)))
	b.ReportAllocs()
	for b.Loop() {
		c := chunk.NewChecker(o.ID)
		if _, err := c.Write(o.Bytes); err != nil || !c.Complete() {
			b.Fatal(err)
		}
	}
}
