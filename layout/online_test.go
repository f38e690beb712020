package layout

import (
	"fmt"
	"math/rand/v2"
	"slices"
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

// placeAll places the files of entries and returns where each begins.
func placeAll(t *testing.T, entries []flatten.Entry) (*Planner, []Piece) {
	t.Helper()
	pl, err := NewPlanner(Default)
	if err != nil {
		t.Fatal(err)
	}
	var places []Piece
	for i := range entries {
		if entries[i].Kind != flatten.File || entries[i].Size == 0 {
			continue
		}
		index, offset, err := pl.Place(&entries[i])
		if err != nil {
			t.Fatal(err)
		}
		start := index*Default.chunkBlocks() + uint32(offset)/4096
		places = append(places, Piece{uint32(i), start, uint32((entries[i].Size + 4095) / 4096)})
	}
	return pl, places
}

func TestPlannerDoesAsPlanSegment(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		entries := randomEntries(rng, rng.IntN(400))
		want, err := PlanSegment(entries, Default)
		if err != nil {
			t.Fatal(err)
		}
		pl, places := placeAll(t, entries)
		got, err := pl.Segment(entries)
		if err != nil || got == nil {
			t.Fatalf("the planner refuses what it placed: %v", err)
		}
		if got.Chunks != want.Chunks || got.params != want.params || !slices.Equal(got.Pieces, want.Pieces) {
			t.Fatal("the planner gives another segment")
		}
		slices.SortFunc(places, func(a, b Piece) int { return int(a.Start) - int(b.Start) })
		if !slices.Equal(places, want.Pieces) {
			t.Fatal("the planner named other places than the segment has")
		}
	}
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
		pl, _ := placeAll(t, placed)
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
	pl, _ := placeAll(t, placed)
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
	if _, _, err := pl.Place(&huge); err == nil {
		t.Error("a file larger than any disk was placed")
	}
}
