package layout

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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
	sequential(t)
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

// mixedEntries returns n files, most of them small, some of them large.
func mixedEntries(n int) []flatten.Entry {
	rng := rand.New(rand.NewPCG(7, 7))
	var out []flatten.Entry
	for i := range n {
		size := 1 + rng.Int64N(24<<10)
		switch i % 20 {
		case 7:
			size = 1 + rng.Int64N(int64(Default.Large))
		case 13:
			size = 1 + rng.Int64N(1<<20)
		}
		out = append(out, flatten.Entry{Path: fmt.Sprintf("dir%03d/file%d", i/20, i), Attr: flatten.Attr{Kind: flatten.File, Size: size}})
	}
	return out
}

// contents names what is in each chunk of a segment: paths, versions (times)
// and places.
func contents(t *testing.T, entries []flatten.Entry) map[string]bool {
	t.Helper()
	s, err := PlanSegment(entries, Default)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]bool)
	for i := range s.Chunks {
		var b strings.Builder
		for _, p := range s.PiecesOf(i) {
			e := &entries[p.Entry]
			fmt.Fprintf(&b, "%s %d %d %d\n", e.Path, e.MTime.Sec, e.Size, int64(p.Start)-int64(i*Default.chunkBlocks()))
		}
		out[b.String()] = true
	}
	return out
}

// What a change of one file may disturb: its own bin, and seldom the next ones.
func TestSegmentChangesStayLocal(t *testing.T) {
	sequential(t)
	base := mixedEntries(1000)
	before := contents(t, base)
	set := func(i int, size int64) []flatten.Entry {
		out := slices.Clone(base)
		out[i].MTime.Sec, out[i].Size = 1, size
		return out
	}
	changes := map[string]func(i int) []flatten.Entry{
		"content": func(i int) []flatten.Entry { return set(i, base[i].Size) },
		"longer":  func(i int) []flatten.Entry { return set(i, base[i].Size+5000) },
		"shorter": func(i int) []flatten.Entry { return set(i, (base[i].Size+1)/2) },
		"emptied": func(i int) []flatten.Entry { return set(i, 0) },
		"removed": func(i int) []flatten.Entry { return slices.Delete(slices.Clone(base), i, i+1) },
		"renamed": func(i int) []flatten.Entry {
			out := slices.Clone(base)
			out[i].Path += "b"
			return out
		},
		"added": func(i int) []flatten.Entry {
			return slices.Insert(slices.Clone(base), i+1, flatten.Entry{Path: base[i].Path + "b", Attr: flatten.Attr{Kind: flatten.File, Size: 9000}})
		},
		"large now": func(i int) []flatten.Entry { return set(i, int64(Default.Large)) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			tried, sum, most := 0, 0, 0
			for i := 3; i < len(base); i += 9 {
				if base[i].Size > 24<<10 {
					continue
				}
				fresh := 0
				for c := range contents(t, change(i)) {
					if !before[c] {
						fresh++
					}
				}
				tried, sum, most = tried+1, sum+fresh, max(most, fresh)
			}
			mean := 1.5
			if name == "large now" { // which has a chunk of its own then
				mean = 2.5
			}
			if tried < 90 || float64(sum) > mean*float64(tried) || most > 8 || sum < tried/2 {
				t.Errorf("%d changes made %d chunks new, one of them %d", tried, sum, most)
			}
		})
	}
}

func TestSegmentRefuses(t *testing.T) {
	huge := []flatten.Entry{{Path: "a", Attr: flatten.Attr{Kind: flatten.File, Size: MaxDiskBytes + 1}}}
	if _, err := PlanSegment(huge, Default); err == nil {
		t.Error("a file larger than any disk was placed")
	}
	for _, p := range []Params{{}, {Chunk: 3 << 18, Large: 4096}, {Chunk: 1 << 19, Large: 1 << 20}, {Chunk: 1 << 19, Large: 1 << 18, MinBin: -1}, {Chunk: 1 << 19, Large: 1 << 18, MinBin: 1<<19 + 1}} {
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
