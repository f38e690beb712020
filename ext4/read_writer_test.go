package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

// compareNodeView fails the test where the reader's inode is not n. It goes
// below the FS's methods, whose names are UTF-8 only.
func compareNodeView(t *testing.T, fsys *FS, v *inodeView, path string, n *node) {
	t.Helper()
	ino := &n.inode
	got := []any{v.Number, v.Mode, v.UID, v.GID, v.Major, v.Minor, v.ATime, v.MTime, v.CTime, v.CrTime}
	want := []any{ino.Number, ino.Mode, ino.UID, ino.GID, ino.Major, ino.Minor, ino.MTime, ino.MTime, ino.MTime, ino.MTime}
	if !slices.Equal(got, want) {
		t.Errorf("%q: reads as\n%v, want\n%v", path, got, want)
	}
	list, err := fsys.readXattrs(v)
	xattrs := slices.Clone(ino.Xattrs)
	slices.SortFunc(xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	if err != nil || !slices.EqualFunc(list, xattrs, func(a, b Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }) {
		t.Errorf("%q: attributes %q, %v; want %q", path, list, err, xattrs)
	}
	switch {
	case v.isDir():
		compareEntries(t, fsys, v, path, n)
		return
	case v.isSymlink():
		if target, err := fsys.readTarget(v); err != nil || target != ino.Target {
			t.Errorf("%q: leads to %q, %v; want %q", path, target, err, ino.Target)
		}
	case v.isRegular():
		p := make([]byte, v.Size)
		if err := fsys.readData(v, p, 0); err != nil || !bytes.Equal(p, n.data) {
			t.Errorf("%q: %d bytes of data differ from %d: %v", path, len(p), len(n.data), err)
		}
	}
	if v.Links != ino.Links {
		t.Errorf("%q: %d links, want %d", path, v.Links, ino.Links)
	}
}

func compareEntries(t *testing.T, fsys *FS, v *inodeView, path string, n *node) {
	t.Helper()
	d, err := fsys.scanDir(v)
	must(t, err)
	found := map[string]direntView{}
	e, err := d.entry()
	for ; err == nil; e, err = d.entry() {
		found[e.name] = e
	}
	if err != io.EOF || len(found) != len(n.entries) {
		t.Fatalf("%q: %d names, %v; want %d", path, len(found), err, len(n.entries))
	}
	for _, e := range n.entries {
		want := direntView{e.node.inode.Number, e.node.inode.Mode & ModeType, e.name}
		if number, err := fsys.lookup(v, e.name); found[e.name] != want || number != want.number || err != nil {
			t.Fatalf("%q: entry %v, looked up %d, %v; want %v", path, found[e.name], number, err, want)
		}
		child, err := fsys.readInode(want.number)
		must(t, err)
		compareNodeView(t, fsys, child, path+"/"+e.name, e.node)
	}
	if number, err := fsys.lookup(v, "no such name"); number != 0 || err != nil {
		t.Errorf("%q: found a name that is not there: %d, %v", path, number, err)
	}
}

func TestReadWritten(t *testing.T) {
	for seed := range uint64(4) {
		root := randomTree(seed, 100<<seed)
		d := build(t, testConfig(), root, seed%2)
		fsys, err := Open(d, d.size)
		must(t, err)
		v, err := fsys.readInode(RootInode)
		must(t, err)
		compareNodeView(t, fsys, v, "", root)
	}
}

// manyFiles is a tree with a directory of n empty files.
func manyFiles(n int) *node {
	var entries []entry
	for i := range n {
		entries = append(entries, entry{fmt.Sprintf("file %d", i), regularNode(nil)})
	}
	return directoryNode(entry{"many", directoryNode(entries...)}, entry{"data", regularNode(bytes.Repeat([]byte("data"), 1<<20))},
		entry{"link", linkNode("/many/../data")}, entry{"loop", linkNode("loop")})
}

func TestReadHashTree(t *testing.T) {
	sequential(t)
	c := testConfig()
	c.InodesPerGroup = 32768
	root := manyFiles(40_000)
	d := build(t, c, root, 0)
	fsys, err := Open(d, d.size)
	must(t, err)
	v, err := fsys.readInode(RootInode)
	must(t, err)
	compareNodeView(t, fsys, v, "", root)
	if n := fsys.cache.recent.Len(); n > cacheBytes/BlockSize || n != len(fsys.cache.blocks) {
		t.Errorf("%d blocks are kept, at most %d", n, cacheBytes/BlockSize)
	}
}

func TestReadWrittenFSTest(t *testing.T) {
	root := manyFiles(200)
	root.entries = root.entries[:1]
	root.entries = append(root.entries, entry{"data", regularNode([]byte("data"))}, entry{"pipe", &node{inode: Inode{Mode: ModeFIFO}}})
	d := build(t, testConfig(), root, 0)
	fsys, err := Open(d, d.size)
	must(t, err)
	if err := fstest.TestFS(fsys, "data", "many/file 17", "pipe"); err != nil {
		t.Error(err)
	}
}

func TestReadExtents(t *testing.T) {
	data := make([]byte, 900*BlockSize)
	for i := 0; i < len(data); i += 2 * BlockSize {
		data[i] = 1
	}
	root := directoryNode(entry{"f", regularNode(data)})
	d := build(t, testConfig(), root, 1)
	fsys, err := Open(d, d.size)
	must(t, err)
	list, err := fsys.Extents("f")
	if want := root.entries[0].node.inode.Extents; err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("%d extents %v, want %d", len(list), err, len(want))
	}
}

// Every damaged byte of what has a checksum is found, or changes nothing.
func TestReadChecksums(t *testing.T) {
	root := manyFiles(300)
	root.inode.Xattrs = []Xattr{{"user.a", bytes.Repeat([]byte("a"), 300)}}
	d := build(t, testConfig(), root, 0)
	fsys, err := Open(d, d.size)
	must(t, err)
	dir, err := fsys.Extents("many")
	must(t, err)
	v, err := fsys.readInode(RootInode)
	must(t, err)
	table, err := fsys.inodeTable(0)
	must(t, err)
	for what, at := range map[string]uint64{
		"superblock": superOffset + 0x30, "descriptor": BlockSize + 0x10, "inode": table*BlockSize + InodeSize + 9,
		"hash tree": dir[0].Start*BlockSize + 40, "leaf": (dir[0].Start+1)*BlockSize + 40, "attributes": v.xattrBlock*BlockSize + 2000,
	} {
		p := []byte{0}
		_, err := d.ReadAt(p, int64(at))
		must(t, err)
		p[0] ^= 1
		_, err = d.WriteAt(p, int64(at))
		must(t, err)
		broken, err := Open(d, d.size)
		if err == nil {
			_, err = broken.Xattrs(".")
		}
		if err == nil {
			_, err = broken.Stat("many/file 7")
		}
		if err == nil {
			_, err = broken.ReadDir("many")
		}
		if format := (*FormatError)(nil); !errors.As(err, &format) {
			t.Errorf("%s: a wrong byte gives %v", what, err)
		}
		p[0] ^= 1
		_, err = d.WriteAt(p, int64(at))
		must(t, err)
	}
}

func TestReadConcurrently(t *testing.T) {
	d := build(t, testConfig(), randomTree(3, 300), 1)
	fsys, err := Open(d, d.size)
	must(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			b := walkBudget{t: t, fsys: fsys, entries: 400, bytes: 1 << 20}
			b.walk(".")
		})
	}
	wg.Wait()
}

// BenchmarkReadAll walks a tree and reads all of it.
func BenchmarkReadAll(b *testing.B) {
	d := build(b, testConfig(), manyFiles(1500), 0)
	b.SetBytes(4 << 20)
	b.ReportAllocs()
	for b.Loop() {
		fsys, err := Open(d, d.size)
		must(b, err)
		must(b, fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
			if err == nil && e.Type() == 0 {
				_, err = fsys.ReadFile(name)
			}
			return err
		}))
	}
}
