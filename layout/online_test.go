package layout

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/flatten"
)

// randomEntries returns n entries of a layer in walk order, files of all sizes
// and others, with the files' data one after the other.
func randomEntries(rng *rand.Rand, n int) []flatten.Entry {
	sizes := []int64{0, 1, 4096, 4097, int64(Default.Large) - 1, int64(Default.Large), int64(Default.Chunk), int64(Default.Chunk) + 1}
	var out []flatten.Entry
	data := int64(0)
	for i := range n {
		e := flatten.Entry{Path: fmt.Sprintf("d%04d/f%d", i/7, i%7), Attr: flatten.Attr{Kind: flatten.File}}
		switch rng.IntN(10) {
		case 0:
			e.Kind = flatten.Symlink
		case 1:
			e.Kind = flatten.Link
		case 2:
			e.Size = sizes[rng.IntN(len(sizes))]
		case 3:
			e.Size = rng.Int64N(8 << 20)
		default:
			e.Size = rng.Int64N(40 << 10)
		}
		e.Data = data
		data += e.Size
		out = append(out, e)
	}
	return out
}

// placeAll places the files of entries, and returns where a caller that does
// as Planner says has put each.
func placeAll(t *testing.T, entries []flatten.Entry, params Params) (*Planner, []Piece) {
	t.Helper()
	pl, err := NewPlanner(params)
	if err != nil {
		t.Fatal(err)
	}
	var places, bin []Piece // in bin, Start is a block of the open bin
	end := func(b Bin) {
		n := 0
		for n < len(bin) && int(bin[n].Start+bin[n].Count)*4096 <= b.Bytes {
			piece := bin[n]
			piece.Start += b.Index * params.chunkBlocks()
			places = append(places, piece)
			n++
		}
		bin = bin[n:]
		for k := range bin {
			bin[k].Start -= uint32(b.Bytes) / 4096
		}
	}
	for i := range entries {
		e := &entries[i]
		if e.Kind != flatten.File || e.Size == 0 {
			continue
		}
		place, err := pl.Place(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range place.Ended {
			end(b)
		}
		piece := Piece{uint32(i), uint32(place.Offset) / 4096, uint32((e.Size + 4095) / 4096)}
		if e.Size < int64(params.Large) {
			if len(bin) > 0 && bin[len(bin)-1].Start+bin[len(bin)-1].Count != piece.Start {
				t.Fatalf("%s: block %d of the bin is not behind the file before it", e.Path, piece.Start)
			}
			bin = append(bin, piece)
			continue
		}
		piece.Start += place.Index * params.chunkBlocks()
		places = append(places, piece)
	}
	if b, ok := pl.Open(); ok {
		end(b)
	}
	if len(bin) > 0 {
		t.Fatalf("%d files are behind the last bin's end", len(bin))
	}
	return pl, places
}

// plainPlan is the rule of segments as the format's page has it, without a
// thought for speed or memory.
func plainPlan(entries []flatten.Entry, p Params) (pieces []Piece, chunks uint32) {
	type file struct {
		rank, blocks uint32
		hash         uint32
	}
	per := p.chunkBlocks()
	var bin []file
	at := uint32(0) // the open bin's chunk
	put := func(files []file) {
		start := at * per
		for _, f := range files {
			pieces = append(pieces, Piece{f.rank, start, f.blocks})
			start += f.blocks
		}
	}
	sum := func(files []file) (n uint32) {
		for _, f := range files {
			n += f.blocks
		}
		return n
	}
	begun := false
	for i, e := range entries {
		if e.Kind != flatten.File || e.Size == 0 {
			continue
		}
		parts := strings.Split(e.Path, "/")
		tail := strings.Join(parts[max(0, len(parts)-2):], "/")
		f := file{uint32(i), uint32((e.Size + 4095) / 4096), crc32.ChecksumIEEE([]byte(tail))}
		if e.Size >= int64(p.Large) {
			pieces = append(pieces, Piece{f.rank, chunks * per, f.blocks})
			chunks += (f.blocks + per - 1) / per
			continue
		}
		if !begun {
			begun, at, chunks = true, chunks, chunks+1
		}
		for sum(bin)+f.blocks > per {
			last := len(bin)
			lowest := int64(1) << 32
			for k := range bin {
				if int(sum(bin[:k+1]))*4096 >= p.MinBin && int64(bin[k].hash) < lowest {
					last, lowest = k+1, int64(bin[k].hash)
				}
			}
			put(bin[:last])
			bin, at, chunks = bin[last:], chunks, chunks+1
		}
		bin = append(bin, f)
	}
	put(bin)
	slices.SortFunc(pieces, func(a, b Piece) int { return cmp.Compare(a.Start, b.Start) })
	return pieces, chunks
}

// checkPlans wants one plan from PlanSegment, Planner and plainPlan.
func checkPlans(t *testing.T, entries []flatten.Entry, params Params) {
	t.Helper()
	want, chunks := plainPlan(entries, params)
	whole, err := PlanSegment(entries, params)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Chunks != chunks || !slices.Equal(whole.Pieces, want) {
		t.Fatalf("PlanSegment keeps another rule than the page has:\n%d %v\n%d %v", whole.Chunks, whole.Pieces, chunks, want)
	}
	pl, places := placeAll(t, entries, params)
	got, err := pl.Segment(entries)
	if err != nil || got == nil {
		t.Fatalf("the planner refuses what it placed: %v", err)
	}
	if got.Chunks != chunks || got.params != params || !slices.Equal(got.Pieces, want) {
		t.Fatal("the planner gives another segment")
	}
	slices.SortFunc(places, func(a, b Piece) int { return cmp.Compare(a.Start, b.Start) })
	if !slices.Equal(places, want) {
		t.Fatal("the planner named other places than the segment has")
	}
}

// oddParams are measures that no disk has, at the ends of what Check lets through.
var oddParams = []Params{
	Default,
	{Chunk: 512 << 10, Large: 512 << 10, MinBin: 512 << 10}, // bins without a file that they may end after
	{Chunk: 512 << 10, Large: 512 << 10, MinBin: 0},         // files that end more than one bin
	{Chunk: 512 << 10, Large: 4096, MinBin: 64 << 10},
	{Chunk: 64 << 10, Large: 32 << 10, MinBin: 32 << 10},
	{Chunk: 4 << 20, Large: 1 << 20, MinBin: 3 << 20},
}

func TestPlannerDoesAsPlanSegment(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		entries := randomEntries(rng, rng.IntN(400))
		for _, params := range oddParams {
			checkPlans(t, entries, params)
		}
	}
}

// Of equal hashes the first ends the bin, and the last bin is not cut.
func TestPlanOfEqualHashes(t *testing.T) {
	var entries []flatten.Entry
	for i := range 400 {
		entries = append(entries, flatten.Entry{Path: fmt.Sprintf("%03d/d/f", i), Data: int64(i) << 12, Attr: flatten.Attr{Kind: flatten.File, Size: 4096}})
	}
	checkPlans(t, entries, Default)
	s, err := PlanSegment(entries, Default)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range s.Pieces {
		bin := min(i/64, 5)
		if want := uint32(bin*128 + i - bin*64); p.Start != want {
			t.Fatalf("file %d lies at block %d, want %d", i, p.Start, want)
		}
	}
}

// FuzzPlanner takes three bytes a file: its size and its name.
func FuzzPlanner(f *testing.F) {
	f.Add(uint8(0), []byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Add(uint8(1), bytes.Repeat([]byte{0xff, 0x7f, 0}, 20))
	f.Add(uint8(2), bytes.Repeat([]byte{0, 0x10, 7, 0xff, 0x7e, 9}, 30))
	f.Fuzz(func(t *testing.T, measures uint8, data []byte) {
		var entries []flatten.Entry
		for at := int64(0); len(data) >= 3 && len(entries) < 2000; data = data[3:] {
			size := int64(binary.LittleEndian.Uint16(data)) << 4
			entries = append(entries, flatten.Entry{
				Path: fmt.Sprintf("d/%05d/%02x", len(entries), data[2]), Data: at,
				Attr: flatten.Attr{Kind: flatten.File, Size: size},
			})
			at += size
		}
		checkPlans(t, entries, oddParams[int(measures)%len(oddParams)])
	})
}

func TestPlannerKnowsOtherLayers(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	small := func(path string, data int64) flatten.Entry {
		return flatten.Entry{Path: path, Data: data, Attr: flatten.Attr{Kind: flatten.File, Size: 100}}
	}
	placed := append(randomEntries(rng, 100), small("x", 0), small("y", 0), small("z", 0))
	for i, data := 0, int64(0); i < len(placed); i++ {
		placed[i].Data = data
		data += placed[i].Size
	}
	n := len(placed)
	change := func(fn func(e []flatten.Entry) []flatten.Entry) []flatten.Entry { return fn(slices.Clone(placed)) }
	for name, entries := range map[string][]flatten.Entry{
		"none":      nil,
		"one less":  placed[:n-1],
		"one more":  append(slices.Clone(placed), small("zz", placed[n-1].Data+100)),
		"larger":    change(func(e []flatten.Entry) []flatten.Entry { e[n-1].Size++; return e }),
		"swapped":   change(func(e []flatten.Entry) []flatten.Entry { e[n-1], e[n-2] = e[n-2], e[n-1]; return e }),
		"other end": change(func(e []flatten.Entry) []flatten.Entry { e[n-1].Kind = flatten.Link; return e }),
	} {
		pl, _ := placeAll(t, placed, Default)
		if s, err := pl.Segment(entries); s != nil || err != nil {
			t.Errorf("%s: taken for the layer that was placed, %v", name, err)
		}
	}
}

// A name decides where a bin ends: other names are another plan.
func TestPlannerLooksAtNames(t *testing.T) {
	var placed []flatten.Entry
	for i := range 300 {
		placed = append(placed, flatten.Entry{Path: fmt.Sprintf("d/f%03d", i), Data: int64(i) * 4096, Attr: flatten.Attr{Kind: flatten.File, Size: 4096}})
	}
	renamed := slices.Clone(placed)
	for i := range renamed {
		renamed[i].Path = fmt.Sprintf("d/g%03d", i)
	}
	a, _ := PlanSegment(placed, Default)
	b, _ := PlanSegment(renamed, Default)
	if slices.Equal(a.Pieces, b.Pieces) {
		t.Fatal("these names make no difference")
	}
	pl, _ := placeAll(t, placed, Default)
	if s, err := pl.Segment(renamed); s != nil || err != nil {
		t.Errorf("taken for the layer that was placed, %v", err)
	}
}

func TestPlannerRefuses(t *testing.T) {
	if _, err := NewPlanner(Params{}); err == nil {
		t.Error("parameters of zero were accepted")
	}
	pl, err := NewPlanner(Default)
	if err != nil {
		t.Fatal(err)
	}
	huge := flatten.Entry{Path: "a", Attr: flatten.Attr{Kind: flatten.File, Size: MaxDiskBytes + 1}}
	if _, err := pl.Place(&huge); err == nil {
		t.Error("a file larger than any disk was placed")
	}
}
