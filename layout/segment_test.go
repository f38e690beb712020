package layout

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
)

// makeLayer returns a layer of n files in folders of 20, with content that
// follows from the name and version alone.
func makeLayer(n int, version func(i int) int) *flatten.Layer {
	l := &flatten.Layer{}
	var data []byte
	for i := range n {
		rng := rand.New(rand.NewPCG(uint64(i), uint64(version(i))))
		size := 1 + rng.IntN(12<<10)
		if i%40 == 7 {
			size = 200<<10 + rng.IntN(1<<20)
		}
		l.Entries = append(l.Entries, flatten.Entry{
			Path: fmt.Sprintf("dir%03d/file%d", i/20, i), Data: int64(len(data)),
			Attr: flatten.Attr{Kind: flatten.File, Size: int64(size)},
		})
		for range size {
			data = append(data, byte(rng.Uint32()|1))
		}
	}
	l.Data = bytes.NewReader(data)
	return l
}

func same(int) int { return 0 }

// chunkSums returns the digest of each chunk of a layer's segment.
func chunkSums(t *testing.T, l *flatten.Layer) (*Segment, [][32]byte) {
	t.Helper()
	s, err := PlanSegment(l.Entries, Default)
	if err != nil {
		t.Fatal(err)
	}
	buf := bytes.Repeat([]byte{0xaa}, Default.Chunk) // a used buffer
	var sums [][32]byte
	for i := range s.Chunks {
		if err := s.ReadChunk(l, i, buf); err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sha256.Sum256(buf))
	}
	return s, sums
}

func TestSegmentHoldsEveryFile(t *testing.T) {
	l := makeLayer(400, same)
	s, _ := chunkSums(t, l)
	disk := make([]byte, int(s.Chunks)*Default.Chunk)
	for i := range s.Chunks {
		if err := s.ReadChunk(l, i, disk[int(i)*Default.Chunk:][:Default.Chunk]); err != nil {
			t.Fatal(err)
		}
	}
	end := uint32(0)
	used := make([]bool, len(disk))
	for _, p := range s.Pieces {
		e := &l.Entries[p.Entry]
		if p.Start < end {
			t.Fatalf("%s overlaps the piece before it", e.Path)
		}
		end = p.Start + p.Count
		from := int(p.Start) * ext4.BlockSize
		want := make([]byte, e.Size)
		if _, err := l.Data.ReadAt(want, e.Data); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(disk[from:from+len(want)], want) {
			t.Errorf("%s: data differs", e.Path)
		}
		for i := range want {
			used[from+i] = true
		}
		inChunk := p.Start % Default.chunkBlocks()
		if e.Size >= int64(Default.Large) && inChunk != 0 {
			t.Errorf("%s: large file at block %d of a chunk", e.Path, inChunk)
		}
		if e.Size < int64(Default.Large) && inChunk+p.Count > Default.chunkBlocks() {
			t.Errorf("%s: small file crosses a chunk's end", e.Path)
		}
	}
	for i, b := range disk {
		if !used[i] && b != 0 {
			t.Fatalf("byte %d belongs to no file and is not zero", i)
		}
	}
}

// What a change may disturb: its own bin, the next where the bin overflows,
// and the chunks of the file itself.
func TestSegmentChangesStayLocal(t *testing.T) {
	base := makeLayer(2000, same)
	_, before := chunkSums(t, base)
	changes := map[string]*flatten.Layer{
		"content": makeLayer(2000, func(i int) int {
			if i == 1001 {
				return 1
			}
			return 0
		}),
		"removed": func() *flatten.Layer {
			l := makeLayer(2000, same)
			l.Entries = slices.Delete(l.Entries, 1001, 1002)
			return l
		}(),
		"added": func() *flatten.Layer {
			l := makeLayer(2000, same)
			extra := l.Entries[5]
			extra.Path = "dir050/file1000b"
			l.Entries = slices.Insert(l.Entries, 1001, extra)
			return l
		}(),
	}
	for name, l := range changes {
		t.Run(name, func(t *testing.T) {
			_, after := chunkSums(t, l)
			known := map[[32]byte]bool{}
			for _, s := range before {
				known[s] = true
			}
			fresh := 0
			for _, s := range after {
				if !known[s] {
					fresh++
				}
			}
			if fresh == 0 || fresh > 4 {
				t.Errorf("%d of %d chunks are new, want 1 to 4", fresh, len(after))
			}
		})
	}
}

func TestSegmentRefuses(t *testing.T) {
	huge := []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.File, Size: MaxDiskBytes + 1}}}
	if _, err := PlanSegment(huge, Default); err == nil {
		t.Error("a file larger than any disk was placed")
	}
	for _, p := range []Params{{}, {Chunk: 3 << 18, Large: 4096, CutOneIn: 1}, {Chunk: 1 << 19, Large: 1 << 20, CutOneIn: 1}, {Chunk: 1 << 19, Large: 1 << 18, MinBin: -1, CutOneIn: 1}, {Chunk: 1 << 19, Large: 1 << 18}} {
		if _, err := PlanSegment(nil, p); err == nil {
			t.Errorf("parameters %+v were accepted", p)
		}
	}
	l := makeLayer(1, same)
	s, err := PlanSegment(l.Entries, Default)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ReadChunk(l, 0, make([]byte, 17)); err == nil {
		t.Error("a buffer of the wrong size was filled")
	}
	l.Data = bytes.NewReader(nil)
	if err := s.ReadChunk(l, 0, make([]byte, Default.Chunk)); err == nil {
		t.Error("data that ends early went unnoticed")
	}
}

func BenchmarkPlanSegment(b *testing.B) {
	l := makeLayer(2000, same)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := PlanSegment(l.Entries, Default); err != nil {
			b.Fatal(err)
		}
	}
}
