package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// The hashes of ASCII names are those of debugfs's dx_hash. It has no unsigned
// hash to ask for; that of other names is tested by e2fsck and the kernel, in
// large directories.
func TestHashName(t *testing.T) {
	seed := [16]byte{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3}
	for _, test := range []struct {
		name        string
		seed        [16]byte
		hash, minor uint32
	}{
		{"a", [16]byte{}, 0xd5fa7d7a, 0xacb48187},
		{"a", seed, 0xef070b50, 0xaa108b02},
		{"hello", [16]byte{}, 0x1746da32, 0x420013b5},
		{"hello", seed, 0xd3346300, 0x1df0ccbf},
		{strings.Repeat("x", 100), [16]byte{}, 0x23aa98ac, 0x9a974df1},
		{strings.Repeat("x", 100), seed, 0xadda930c, 0x167152ac},
		{"grüße", [16]byte{}, 0x63024784, 0xc3783f15},
		{"grüße", seed, 0x967403ec, 0x603f9bdd},
	} {
		hash, minor := hashName(test.name, hashState(test.seed))
		if hash != test.hash || minor != test.minor {
			t.Errorf("%q: got %#x, %#x, want %#x, %#x", test.name, hash, minor, test.hash, test.minor)
		}
	}
}

// flatTree is a root with one directory that has names for the same few files.
func flatTree(names []string) *node {
	file := regularNode([]byte("x"))
	dir := directoryNode()
	for i, name := range names {
		if i%60_000 == 0 {
			file = regularNode([]byte("x"))
		}
		dir.entries = append(dir.entries, entry{name, file})
	}
	return directoryNode(entry{"dir", dir})
}

func longName(i int) string { return fmt.Sprintf("%0255d", i) }

// dirBlocks are the blocks of the one directory in a flat tree.
func dirBlocks(t *testing.T, names []string) (leaves, nodes int) {
	t.Helper()
	entries := make([]Dirent, len(names))
	for i, name := range names {
		entries[i] = Dirent{name, 12, ModeRegular}
	}
	d, err := newDirectory(FirstInode, RootInode, entries, hashState(testConfig().HashSeed), 0)
	must(t, err)
	return len(d.leaves), d.nodes
}

func TestLargeDirectories(t *testing.T) {
	sequential(t)
	short, long := make([]string, 100_000), make([]string, 100_000)
	for i := range short {
		short[i], long[i] = fmt.Sprint("größe", i), longName(i)
	}
	for _, test := range []struct {
		name          string
		names         []string
		leaves, nodes int
	}{
		{"one block, full", append(slices.Clone(long[:15]), strings.Repeat("y", 90)), 0, 0},
		{"a leaf, full", append(slices.Clone(long[:15]), strings.Repeat("y", 116)), 1, 0},
		{"two leaves", append(slices.Clone(long[:15]), strings.Repeat("y", 117)), 2, 0},
		{"root full", long[:507*15], 507, 0},
		{"a node more", long[:507*15+1], 508, 1},
		{"node full", long[:510*15], 510, 1},
		{"second node", long[:510*15+1], 511, 2},
		{"100,000 short", short, 0, 0},
		{"100,000 long", long, 6667, 14},
	} {
		t.Run(test.name, func(t *testing.T) {
			leaves, nodes := dirBlocks(t, test.names)
			if test.name == "100,000 short" {
				if leaves < 400 {
					t.Errorf("%d leaves", leaves)
				}
			} else if leaves != test.leaves || nodes != test.nodes {
				t.Errorf("%d leaves and %d nodes, want %d and %d", leaves, nodes, test.leaves, test.nodes)
			}
			root := flatTree(test.names)
			disk := build(t, testConfig(), root, 0).file(t)
			fsck(t, disk)
			if test.leaves < 508 {
				compareTree(t, mountDisk(t, disk, "ro,noload"), root)
			}
		})
	}
}

// collidingNames gives names of the longest size of which two have the same
// hash and, in the order of hashes, stand on both sides of a leaf's end.
func collidingNames(t *testing.T) (names []string, a, b string) {
	t.Helper()
	state := hashState(testConfig().HashSeed)
	list := make([]hashedName, 300_000)
	for i := range list {
		hash, minor := hashName(longName(i), state)
		list[i] = hashedName{hash, minor, i}
	}
	slices.SortFunc(list, func(a, b hashedName) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.minor, b.minor))
	})
	for i := 1000; i+1000 < len(list); i++ {
		if list[i].hash == list[i+1].hash {
			for _, n := range list[i-14 : i+15] {
				names = append(names, longName(n.entry))
			}
			return names, longName(list[i].entry), longName(list[i+1].entry)
		}
	}
	t.Fatal("no two names of the same hash")
	return nil, "", ""
}

func TestHashCollisionAcrossLeaves(t *testing.T) {
	sequential(t)
	names, a, b := collidingNames(t)
	if leaves, _ := dirBlocks(t, names); leaves != 2 {
		t.Fatalf("%d leaves, want 2", leaves)
	}
	d := build(t, testConfig(), flatTree(names), 0)
	var root [BlockSize]byte
	_, err := d.ReadAt(root[:], int64(testConfig().Meta+1)*BlockSize)
	must(t, err)
	if hash := le.Uint32(root[rootIndexStart+indexEntrySize:]); hash&1 == 0 {
		t.Errorf("second leaf's hash %#x does not say that it continues the first", hash)
	}
	disk := d.file(t)
	fsck(t, disk)
	dir := mountDisk(t, disk, "ro,noload")
	for _, name := range []string{a, b} {
		if _, err := os.Lstat(dir + "/dir/" + name); err != nil {
			t.Error(err)
		}
	}
}

func TestManySubdirectories(t *testing.T) {
	sequential(t)
	c := testConfig()
	c.InodesPerGroup = 32768
	c.Blocks, c.Meta = 4*c.Blocks, 2*BlocksPerGroup
	root := directoryNode()
	var entries []Dirent
	for i := range MaxLinks - 1 {
		root.entries = append(root.entries, entry{fmt.Sprint(i), directoryNode()})
		entries = append(entries, Dirent{fmt.Sprint(i), FirstInode, ModeDir})
	}
	for n, want := range map[int]uint32{0: 2, MaxLinks - 2: MaxLinks, MaxLinks - 1: 1} {
		d := directory{entries: entries[:n]}
		if got := d.links(); got != want {
			t.Errorf("%d subdirectories: %d links, want %d", n, got, want)
		}
	}
	fsck(t, build(t, c, root, 0).file(t))
}

func TestBadDirents(t *testing.T) {
	file := Dirent{"a", 12, ModeRegular}
	for _, test := range []struct {
		name    string
		entries []Dirent
	}{
		{"empty", []Dirent{{"", 12, ModeRegular}}},
		{"dot", []Dirent{{".", 12, ModeRegular}}},
		{"dot dot", []Dirent{{"..", 12, ModeDir}}},
		{"slash", []Dirent{{"a/b", 12, ModeRegular}}},
		{"NUL", []Dirent{{"a\x00", 12, ModeRegular}}},
		{"long", []Dirent{{strings.Repeat("a", 256), 12, ModeRegular}}},
		{"twice", []Dirent{file, {"b", 13, ModeFIFO}, file}},
		{"no type", []Dirent{{"a", 12, 0}}},
		{"whole mode", []Dirent{{"a", 12, ModeRegular | 0o644}}},
		{"reserved inode", []Dirent{{"a", 8, ModeRegular}}},
		{"inode behind the last", []Dirent{{"a", 4097, ModeRegular}}},
		{"the root", []Dirent{{"a", RootInode, ModeDir}}},
	} {
		w, _ := newTestWriter(t, testConfig())
		if err := w.AddDir(dirInode(RootInode), RootInode, test.entries); !errors.Is(err, ErrDirent) {
			t.Errorf("%s: %v", test.name, err)
		}
		if err := w.AddDir(dirInode(RootInode), RootInode, []Dirent{file}); err != nil {
			t.Errorf("%s: writer is of no use afterwards: %v", test.name, err)
		}
	}
}

func TestTwiceInLargeDirectory(t *testing.T) {
	var entries []Dirent
	for i := range 5000 {
		entries = append(entries, Dirent{fmt.Sprint(i % 4999), 12, ModeRegular})
	}
	_, err := newDirectory(RootInode, RootInode, entries, hashState([16]byte{}), 0)
	if !errors.Is(err, ErrDirent) {
		t.Error(err)
	}
}

func TestDirectoryTooLarge(t *testing.T) {
	sequential(t)
	// Names are not looked at again once they are sorted; one serves for all.
	d := directory{entries: []Dirent{{Name: longName(0)}}, names: make([]hashedName, 15*maxIndexLeaves)}
	if err := d.cut(); err != nil || len(d.leaves) != maxIndexLeaves || d.nodes != rootIndexLimit {
		t.Errorf("%d leaves, %d nodes, %v", len(d.leaves), d.nodes, err)
	}
	d.leaves, d.names = nil, append(d.names, hashedName{})
	if err := d.cut(); !errors.Is(err, ErrDirTooLarge) {
		t.Errorf("a leaf more: %v", err)
	}
}
