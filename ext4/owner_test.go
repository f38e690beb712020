package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ownersOf returns the owner of each block of the device.
func ownersOf(t testing.TB, fsys *FS) []Owner {
	t.Helper()
	list, err := fsys.Owners(t.Context(), []Range{{0, fsys.super.blocks}})
	must(t, err)
	next, all := uint64(0), make([]Owner, 0, fsys.super.blocks)
	for _, o := range list {
		if o.Start != next || o.Count == 0 {
			t.Fatalf("owner %+v, want one from block %d on", o, next)
		}
		next += o.Count
		for i := range o.Count {
			part := o
			part.Start, part.Count, part.Logical = o.Start+i, 1, o.Logical+uint32(i)
			all = append(all, part)
		}
	}
	if next != fsys.super.blocks {
		t.Fatalf("owners of %d blocks, want %d", next, fsys.super.blocks)
	}
	return all
}

// TestInodeBlock holds the blocks of all inodes against the owners of those blocks.
func TestInodeBlock(t *testing.T) {
	d := build(t, testConfig(), randomTree(1, 20), 0)
	fsys, err := Open(d, d.size)
	must(t, err)
	owners := ownersOf(t, fsys)
	const inBlock = BlockSize / InodeSize
	for n := uint32(1); n <= fsys.super.inodes; n++ {
		block, err := fsys.InodeBlock(n)
		must(t, err)
		if o := owners[block]; o.Use != InodeTable {
			t.Fatalf("inode %d is in block %d, which is of %+v", n, block, o)
		}
		if n > 1 {
			last, _ := fsys.InodeBlock(n - 1)
			if same := (n-1)%inBlock != 0; same != (last == block) {
				t.Fatalf("inode %d is in block %d, the one before in %d", n, block, last)
			}
		}
	}
	for _, n := range []uint32{0, fsys.super.inodes + 1, 1<<32 - 1} {
		if block, err := fsys.InodeBlock(n); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("inode %d is in block %d, %v", n, block, err)
		}
	}
}

// TestOwners holds the owners of all blocks against the tree that was written.
func TestOwners(t *testing.T) {
	for seed := range uint64(3) {
		root := randomTree(seed, 200<<seed)
		root.entries = append(root.entries, entry{"scattered", regularNode(bytes.Repeat([]byte("x"), 400*BlockSize))})
		d := build(t, testConfig(), root, 1)
		fsys, err := Open(d, d.size)
		must(t, err)
		owners := ownersOf(t, fsys)
		paths := map[uint32][]string{}
		known := make([]bool, len(owners)) // blocks of files
		var walk func(n *node, name string)
		walk = func(n *node, name string) {
			ino := &n.inode
			paths[ino.Number] = append(paths[ino.Number], name)
			for _, e := range n.entries {
				walk(e.node, path.Join(name, e.name))
			}
			for _, e := range ino.Extents {
				for i := range uint64(e.Count) {
					known[e.Start+i] = true
					o := owners[e.Start+i]
					if o.Use != FileData || o.Inode != ino.Number || o.Logical != e.Logical+uint32(i) {
						t.Errorf("block %d is %+v, want block %d of inode %d", e.Start+i, o, e.Logical, ino.Number)
					}
				}
			}
		}
		walk(root, ".")
		count := map[Use]int{}
		for i, o := range owners {
			count[o.Use]++
			if (o.Use == FileData) != known[i] {
				t.Errorf("block %d is %+v", i, o)
			}
			switch o.Use {
			case FileData, DirectoryData, LinkTarget, MapNode, Attributes:
				if !slices.Contains(paths[o.Inode], o.Path) {
					t.Errorf("block %d is of %q, want one of %q", i, o.Path, paths[o.Inode])
				}
			default:
				if o.Path != "" {
					t.Errorf("block %d has a name: %+v", i, o)
				}
			}
		}
		c := testConfig()
		if count[Super] != 1 || count[Journal] != int(c.JournalBlocks) || count[BlockBitmap] != 2 || count[InodeBitmap] != 2 ||
			count[Descriptors] != 1 || count[InodeTable] != 2*int(c.InodesPerGroup)/16 || count[MapNode] < 2 || count[Attributes] == 0 {
			t.Errorf("uses %v", count)
		}
		g, err := fsys.group(0)
		must(t, err)
		table, err := fsys.Owners(t.Context(), []Range{{g.table + 3, 2}})
		if want := (Owner{Range{g.table + 3, 2}, InodeTable, 49, 3, ""}); err != nil || len(table) != 1 || table[0] != want {
			t.Errorf("inode table is %+v, %v; want %+v", table, err, want)
		}
	}
}

// TestOwnersOfMkfs compares owners with what debugfs finds.
func TestOwnersOfMkfs(t *testing.T) {
	sequential(t)
	tree := makeTree(t)
	found := regexp.MustCompile(`(?m)^(\d+)\s+(\d+)$`)
	for i, mode := range mkfsModes {
		if i > 0 && testing.Short() || i%3 > 0 { // 4k, 32bit, csum_seed, inline_data, meta_bg, bigalloc, ext3
			continue
		}
		t.Run(mode.name, func(t *testing.T) {
			fsys, disk := makeImage(t, "96m", append(mode.args, "-d", tree)...)
			owners := ownersOf(t, fsys)
			question := "icheck"
			asked := 0
			for _, o := range owners {
				if o.Use >= FileData && o.Use != Attributes && asked < 2000 { // of those it knows the inodes that use them, not a block's own
					question += fmt.Sprint(" ", o.Start)
					asked++
				}
			}
			out, err := tool(t, "debugfs", "-R", question, disk)
			must(t, err)
			answers := found.FindAllStringSubmatch(out, -1)
			if len(answers) < 100 || len(answers) != asked {
				t.Fatalf("debugfs knows %d of %d blocks:\n%.300s", len(answers), asked, out)
			}
			for _, a := range answers {
				block, _ := strconv.Atoi(a[1])
				if got := owners[block]; strconv.Itoa(int(got.Inode)) != a[2] {
					t.Errorf("block %d belongs to %+v, says debugfs of inode %s", block, got, a[2])
				}
			}
		})
	}
}

// TestOwnersOfSome asks for ranges that overlap, touch and leave the device.
func TestOwnersOfSome(t *testing.T) {
	root := directoryNode(entry{"a", regularNode(bytes.Repeat([]byte("a"), 10*BlockSize))}, entry{"b", regularNode([]byte("b"))})
	d := build(t, testConfig(), root, 0)
	fsys, err := Open(d, d.size)
	must(t, err)
	at := testConfig().Low
	list, err := fsys.Owners(t.Context(), []Range{{at + 9, 4}, {at + 2, 3}, {at + 4, 2}, {at + 2, 1}, {fsys.super.blocks - 1, 9}, {1 << 63, 1 << 63}, {7, 0}})
	must(t, err)
	want := []Owner{
		{Range{at + 2, 4}, FileData, 11, 2, "a"}, {Range{at + 9, 1}, FileData, 11, 9, "a"}, {Range{at + 10, 1}, FileData, 12, 0, "b"},
		{Range{at + 11, 2}, Free, 0, 0, ""},
	}
	last := list[len(list)-1]
	if !slices.Equal(list[:len(list)-1], want) || last.Start != fsys.super.blocks-1 || last.Count != 1 {
		t.Errorf("owners\n%+v, want\n%+v and the last block", list, want)
	}
	if _, err := fsys.Owners(t.Context(), []Range{{0, 1 << 15}, {1 << 40, 1}}); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fsys.Owners(ended, []Range{{at, 1}}); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context's end: %v", err)
	}
}

// TestOwnersOfMuch asks for more than is answered.
func TestOwnersOfMuch(t *testing.T) {
	c := testConfig()
	c.Blocks, c.Meta = 2*MaxOwned, MaxOwned
	d := build(t, c, directoryNode(), 0)
	fsys, err := Open(d, d.size)
	must(t, err)
	if list, err := fsys.Owners(t.Context(), []Range{{0, MaxOwned}}); err != nil || len(list) < 5 {
		t.Errorf("%d owners, %v", len(list), err)
	}
	if list, err := fsys.Owners(t.Context(), []Range{{0, 1}, {9, MaxOwned}}); err == nil {
		t.Errorf("%d owners of more than %d blocks", len(list), MaxOwned)
	}
}

// TestOwnersReservedAndLoops names slack, and survives a directory that holds
// itself.
func TestOwnersReservedAndLoops(t *testing.T) {
	w, d := newTestWriter(t, testConfig())
	must(t, w.Reserve(Range{200, 5}))
	sub := dirInode(11)
	sub.Links = 2
	must(t, w.AddDir(dirInode(RootInode), RootInode, []Dirent{{"sub", 11, ModeDir}}))
	must(t, w.AddDir(sub, RootInode, []Dirent{{"again", 11, ModeDir}, {"up", 12, ModeDir}}))
	up := dirInode(12)
	must(t, w.AddDir(up, 11, []Dirent{{"again", 11, ModeDir}}))
	must(t, w.Close())
	fsys, err := Open(d, d.size)
	must(t, err)
	owners := ownersOf(t, fsys)
	for i, want := range map[int]Use{199: Free, 200: Slack, 204: Slack, 205: Free} {
		if owners[i].Use != want {
			t.Errorf("block %d: %+v, want %v", i, owners[i], want)
		}
	}
	names := map[string]bool{}
	for _, o := range owners {
		if o.Use == DirectoryData {
			names[o.Path] = true
		}
	}
	if !names["."] || !names["sub"] || !names["sub/up"] || len(names) != 3 {
		t.Errorf("directories %v", names)
	}
}

// countingReader counts what is read.
type countingReader struct {
	io.ReaderAt
	bytes int64
}

func (r *countingReader) ReadAt(p []byte, off int64) (int, error) {
	r.bytes += int64(len(p))
	return r.ReaderAt.ReadAt(p, off)
}

// BenchmarkOwners finds the last file of many. For its memory at a million files:
// go test ./ext4 -run - -bench Owners/1000000 -benchtime 1x
func BenchmarkOwners(b *testing.B) {
	for _, files := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			c := testConfig()
			c.Blocks, c.InodesPerGroup, c.Low, c.Meta = 64*BlocksPerGroup, 32768, 1024, 64*BlocksPerGroup/2
			root := directoryNode()
			for i := range files / 1000 {
				dir := directoryNode()
				for j := range 1000 {
					dir.entries = append(dir.entries, entry{fmt.Sprintf("a file with a usual name %d", j), regularNode(nil)})
				}
				root.entries = append(root.entries, entry{fmt.Sprint("directory ", i), dir})
			}
			last := root.entries[len(root.entries)-1].node
			last.entries = append(last.entries, entry{"wanted", regularNode([]byte("x"))})
			d := build(b, c, root, 0)
			root, last = nil, nil
			b.ResetTimer()
			for b.Loop() {
				r := &countingReader{ReaderAt: d}
				fsys, err := Open(r, d.size)
				must(b, err)
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				list, err := fsys.Owners(b.Context(), []Range{{c.Low, 1}})
				must(b, err)
				runtime.GC()
				runtime.ReadMemStats(&after)
				if len(list) != 1 || !strings.HasSuffix(list[0].Path, "/wanted") {
					b.Fatalf("owners %+v", list)
				}
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc), "live-B")
				b.ReportMetric(float64(r.bytes), "read-B")
				runtime.KeepAlive(fsys)
			}
		})
	}
}
