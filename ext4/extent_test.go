package ext4

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestCutExtents(t *testing.T) {
	const low, high = 100, 200_000
	for _, test := range []struct {
		name   string
		in     []Extent
		blocks uint64
		want   []Extent
	}{
		{"none", nil, 0, []Extent{}},
		{"joined", []Extent{{0, 1, 100}, {1, 2, 101}, {4, 1, 104}}, 5, []Extent{{0, 3, 100}, {4, 1, 104}}},
		{"cut", []Extent{{0, 70_000, 100}}, 70_000, []Extent{{0, 32768, 100}, {32768, 32768, 32868}, {65536, 4464, 65636}}},
		{"joined and cut", []Extent{{0, 32767, 100}, {32767, 2, 32867}}, 32769, []Extent{{0, 32768, 100}, {32768, 1, 32868}}},
		{"backwards", []Extent{{0, 1, 101}, {1, 1, 100}}, 2, []Extent{{0, 1, 101}, {1, 1, 100}}},
		{"last block of all", []Extent{{maxFileBlocks - 1, 1, 100}}, maxFileBlocks, []Extent{{maxFileBlocks - 1, 1, 100}}},
		{"empty", []Extent{{0, 0, 100}}, 1, nil},
		{"unsorted", []Extent{{1, 1, 100}, {0, 1, 101}}, 2, nil},
		{"overlapping", []Extent{{0, 2, 100}, {1, 1, 102}}, 3, nil},
		{"behind the end", []Extent{{0, 2, 100}}, 1, nil},
		{"too low", []Extent{{0, 2, 99}}, 2, nil},
		{"too high", []Extent{{0, 2, high - 1}}, 2, nil},
		{"overflow", []Extent{{0, 2, 1<<64 - 1}}, 2, nil},
		{"logical overflow", []Extent{{1<<32 - 1, 1<<32 - 1, 100}}, 1 << 32, nil},
	} {
		got, err := cutExtents(test.in, test.blocks, low, high)
		if test.want == nil {
			if !errors.Is(err, ErrExtents) {
				t.Errorf("%s: %v", test.name, err)
			}
		} else if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v, %v", test.name, got, test.want, err)
		}
	}
}

func TestExtentTreeShape(t *testing.T) {
	for _, test := range []struct {
		extents int
		levels  []int
	}{
		{0, nil},
		{4, nil},
		{5, []int{1}},
		{340, []int{1}},
		{341, []int{2}},
		{4 * 340, []int{4}},
		{4*340 + 1, []int{1, 5}},
		{340 * 340, []int{1, 340}},
		{4 * 340 * 340, []int{4, 1360}},
		{4*340*340 + 1, []int{1, 5, 1361}},
	} {
		tree := newExtentTree(make([]Extent, test.extents))
		if !slices.Equal(tree.levels, test.levels) {
			t.Errorf("%d extents: levels %v, want %v", test.extents, tree.levels, test.levels)
		}
	}
}

// scattered is a file of n extents of one block with a hole behind each, and
// the blocks lie in falling order.
func scattered(number uint32, n int, start uint64) *Inode {
	ino := &Inode{Number: number, Mode: ModeRegular | 0o644, Links: 1, Size: int64(2*n) * BlockSize}
	for i := range n {
		ino.Extents = append(ino.Extents, Extent{uint32(2*i + 1), 1, start + uint64(n-1-i)})
	}
	return ino
}

func TestDeepExtentTrees(t *testing.T) {
	sequential(t)
	for _, n := range []int{5, 340, 341, 1360, 1361, 340*340 + 1, 4*340*340 + 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := testConfig()
			c.Blocks, c.Meta = 1<<20, 600_000
			w, d := newTestWriter(t, c)
			must(t, w.AddDir(dirInode(RootInode), RootInode, []Dirent{{"f", FirstInode, ModeRegular}}))
			ino := scattered(FirstInode, n, 1000)
			for _, e := range ino.Extents {
				if e.Logical%1001 == 1 {
					_, err := d.WriteAt(fmt.Appendf(nil, "block %d", e.Logical), int64(e.Start)*BlockSize)
					must(t, err)
				}
			}
			must(t, w.Add(ino))
			must(t, w.Close())
			disk := d.file(t)
			fsck(t, disk)
			f, err := os.Open(mountDisk(t, disk, "ro,noload") + "/f")
			must(t, err)
			defer func() { must(t, f.Close()) }()
			for at := 1; at < 2*n; at += 1001 {
				want := fmt.Sprint("block ", at)
				got := make([]byte, len(want))
				if _, err := f.ReadAt(got, int64(at)*BlockSize); err != nil || at%2 == 1 && string(got) != want {
					t.Fatalf("block %d: %q, %v", at, got, err)
				}
			}
		})
	}
}

func TestLargestFile(t *testing.T) {
	w, d := newTestWriter(t, testConfig())
	must(t, w.AddDir(dirInode(RootInode), RootInode, []Dirent{{"f", FirstInode, ModeRegular}}))
	ino := &Inode{Number: FirstInode, Mode: ModeRegular | 0o600, Links: 1, Size: maxFileBlocks * BlockSize,
		Extents: []Extent{{5, 30_000, 1000}, {maxFileBlocks - 1, 1, 500}}}
	must(t, w.Add(ino))
	must(t, w.Close())
	disk := d.file(t)
	fsck(t, disk)
	fi, err := os.Stat(mountDisk(t, disk, "ro,noload") + "/f")
	must(t, err)
	if fi.Size() != ino.Size {
		t.Errorf("size %d, want %d", fi.Size(), ino.Size)
	}
}

func TestBootLoader(t *testing.T) {
	for _, test := range []struct{ ranges, nodes int }{{0, 0}, {4, 0}, {5, 1}, {2000, 7}, {10_000, 31}} {
		t.Run(fmt.Sprint(test.ranges), func(t *testing.T) {
			w, d := newTestWriter(t, testConfig())
			must(t, w.AddDir(dirInode(RootInode), RootInode, nil))
			for i := range test.ranges { // in any order, adjacent ones too
				k := uint64(i*7919%test.ranges)*3 + 1000
				must(t, w.Reserve(Range{k + 1, 1}))
				must(t, w.Reserve(Range{k, 1}))
			}
			must(t, w.Close())
			disk := d.file(t)
			fsck(t, disk)
			out, err := tool(t, "debugfs", "-R", "stat <5>", disk)
			if err != nil {
				t.Fatal(err, out)
			}
			want := fmt.Sprintf("Size: %d\n", 2*test.ranges*BlockSize)
			blocks := fmt.Sprintf("Blockcount: %d\n", (2*test.ranges+test.nodes)*sectorBlocks)
			if !strings.Contains(out, want) || !strings.Contains(out, blocks) {
				t.Errorf("want %q and %q in %.500s", want, blocks, out)
			}
		})
	}
}
