//go:build linux

package flatten

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// extract applies entries in order to a folder, as programs that unpack a layer do.
func extract(t *testing.T, items []item) string {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	for _, it := range items {
		switch it.Typeflag {
		case tar.TypeDir:
			err = root.Mkdir(it.Name, os.FileMode(it.Mode))
		case tar.TypeReg:
			err = root.WriteFile(it.Name, []byte(it.body), os.FileMode(it.Mode))
		case tar.TypeLink:
			err = root.Link(it.Linkname, it.Name)
		case tar.TypeSymlink:
			err = root.Symlink(it.Linkname, it.Name)
		}
		if err != nil {
			t.Fatalf("extract: %v", err)
		}
	}
	return dir
}

// linkedLayer makes folders, symbolic links to them, and files and hard links
// that are named by ways through those. No place is named twice.
func linkedLayer(rng *rand.Rand) []item {
	places := []string{"m", "m/n", "q"}
	ways := make(map[string][]string) // to a place
	var items []item
	for _, p := range places {
		items = append(items, dir(p, 0o755))
		ways[p] = []string{p}
	}
	for i := range 4 {
		// Some names come before the folders in walk order, some behind.
		name := fmt.Sprintf("%c%d", "az"[rng.IntN(2)], i)
		p := places[rng.IntN(len(places))]
		items = append(items, symlink(name, ways[p][rng.IntN(len(ways[p]))]))
		ways[p] = append(ways[p], name)
	}
	spell := func(place, name string) string { return ways[place][rng.IntN(len(ways[place]))] + "/" + name }
	var made [][2]string // place and name
	for i, n := range rng.Perm(16) {
		f := [2]string{places[rng.IntN(len(places))], fmt.Sprintf("f%02d", n)}
		at := spell(f[0], f[1])
		if i == 0 || rng.IntN(3) == 0 {
			items = append(items, file(at, f[1]))
		} else {
			to := made[rng.IntN(len(made))]
			items = append(items, link(at, spell(to[0], to[1])))
		}
		made = append(made, f)
	}
	return items
}

// What ReadLayer and Merge make of hard links by ways through symbolic links is
// what applying the entries in order makes.
func TestLinksAgainstExtraction(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	all := 300
	if testing.Short() {
		all = 30 // the race detector finds nothing in one goroutine
	}
	for range all {
		items := linkedLayer(rng)
		layers := []*Layer{mustRead(t, items...)}
		checkArchive(t, layers[0])
		got := listTree(t, mustMerge(t, layers...), layers)
		if want := listOverlay(t, extract(t, items)); got != want {
			t.Fatalf("%s\ngot\n%swant\n%s", describe([][]item{items}), got, want)
		}
	}
}
