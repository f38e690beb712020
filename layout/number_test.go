package layout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/flatten"
)

// treeEntries returns n entries in walk order, one in eight a directory.
func treeEntries(n int) []flatten.Entry {
	var out []flatten.Entry
	dir := ""
	for i := range n {
		e := flatten.Entry{Attr: flatten.Attr{Kind: flatten.File}}
		if i%8 == 0 {
			dir = fmt.Sprintf("usr/dir%05d", i/8)
			e.Path, e.Kind = dir, flatten.Dir
		} else {
			e.Path = fmt.Sprintf("%s/file%d", dir, i%8)
		}
		out = append(out, e)
	}
	return out
}

func TestPlaces(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{0, 1, 127, 128, 129, 1024, 1025, 9000} {
		entries := treeEntries(n)
		for i := range entries {
			if rng.IntN(4) == 0 {
				entries[i].Kind = flatten.Symlink
			}
		}
		place, size := places(entries)
		if size%inodeRun != 0 || size > 2*uint64(n)+2*inodeRun {
			t.Errorf("%d entries: %d places", n, size)
		}
		last := map[bool]int64{true: -1, false: -1} // by being a directory
		for i, p := range place {
			dir := entries[i].Kind == flatten.Dir
			if int64(p) <= last[dir] || uint64(p) >= size {
				t.Fatalf("%d entries: entry %d has place %d of %d, the one before %d", n, i, p, size, last[dir])
			}
			last[dir] = int64(p)
			if !dir && last[true] >= int64(p) {
				t.Fatalf("%d entries: entry %d has place %d before a directory", n, i, p)
			}
		}
	}
}

// One entry more or less moves the numbers of few others.
func TestPlacesStay(t *testing.T) {
	sequential(t)
	base := treeEntries(8000)
	place, _ := places(base)
	before := make(map[string]uint32)
	for i := range base {
		before[base[i].Path] = place[i]
	}
	moved := func(entries []flatten.Entry) (n int) {
		place, _ := places(entries)
		for i := range entries {
			if p, ok := before[entries[i].Path]; ok && p != place[i] {
				n++
			}
		}
		return n
	}
	var gone, added []int
	for i := 3; i < len(base); i += 163 {
		if base[i].Kind == flatten.Dir {
			continue
		}
		gone = append(gone, moved(slices.Delete(slices.Clone(base), i, i+1)))
		added = append(added, moved(slices.Insert(slices.Clone(base), i+1, flatten.Entry{Path: base[i].Path + "b", Attr: base[i].Attr})))
	}
	for what, list := range map[string][]int{"gone": gone, "added": added} {
		slices.Sort(list)
		if median, tail := list[len(list)/2], list[len(list)*9/10]; median == 0 || median > inodeRun || tail > 2*inodeRun {
			t.Errorf("one %s: %d of %d moved in the median, %d in the ninth decile, %d at most", what, median, len(base), tail, list[len(list)-1])
		}
	}
}
