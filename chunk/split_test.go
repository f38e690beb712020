package chunk_test

import (
	"bytes"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

func TestTrim(t *testing.T) {
	for size := range 140 {
		p := make([]byte, size)
		if got := chunk.Trim(p); len(got) != 0 || !chunk.IsZero(p) {
			t.Errorf("%d zeros: %d bytes left", size, len(got))
		}
		for last := range size {
			clear(p)
			p[0], p[last] = 1, 0x80
			if got := chunk.Trim(p); len(got) != last+1 || chunk.IsZero(p) {
				t.Errorf("%d bytes, last at %d: %d left", size, last, len(got))
			}
		}
	}
}

func FuzzTrim(f *testing.F) {
	f.Add([]byte{1, 0, 0})
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, p []byte) {
		if got, want := chunk.Trim(p), bytes.TrimRight(p, "\x00"); !bytes.Equal(got, want) {
			t.Errorf("%d bytes, want %d", len(got), len(want))
		}
	})
}

func BenchmarkTrim(b *testing.B) {
	p := make([]byte, chunk.Size)
	b.SetBytes(chunk.Size)
	b.ReportAllocs()
	for b.Loop() {
		if !chunk.IsZero(p) {
			b.Fatal("not zero")
		}
	}
}
