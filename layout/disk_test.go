package layout

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
)

var update = flag.Bool("update", false, "write the golden digests anew")

// A file of a generated layer; the name decides the type of what is not set.
type file struct {
	name string
	tar.Header
	body []byte
}

func reg(name string, body []byte) file { return file{name: name, body: body} }
func dir(name string) file {
	return file{name: name, Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
}
func white(dir, name string) file { return file{name: dir + "/.wh." + name} }

// noise returns n bytes that follow from seed.
func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, (n+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		v := rng.Uint64() | 1
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return b[:n]
}

func readLayer(t testing.TB, files []file) *flatten.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.Header
		h.Name, h.Size = f.name, int64(len(f.body))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	spool, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = spool.Close() })
	l, err := flatten.ReadLayer(context.Background(), &b, spool, flatten.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// images are small ones, each for a part of the layout.
func images() map[string][][]file {
	many := []file{dir("d")}
	for i := range 3000 {
		many = append(many, reg(fmt.Sprintf("d/file-%d", i), noise(uint64(i), i%5000)))
	}
	holes := slices.Concat(noise(1, 1<<20), make([]byte, 3<<20), noise(2, 100), make([]byte, 1<<19), []byte{1})
	old := tar.Header{ModTime: time.Unix(-2_000_000_000, 0)}
	late := tar.Header{ModTime: time.Unix(9_000_000_000, 123456789)}
	return map[string][][]file{
		"empty":     {{}},
		"one":       {{reg("a", []byte("hello\n"))}},
		"root":      {{{name: "./", Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o700, Uid: 7, Gid: 8}}, reg("a", []byte("x"))}},
		"many":      {many},
		"large":     {{reg("big", noise(3, 5<<20)), reg("exact", noise(4, 512<<10)), reg("edge", noise(5, 128<<10)), reg("below", noise(6, 128<<10-1))}},
		"holes":     {{reg("holes", holes), reg("zeros", make([]byte, 2<<20)), reg("small-zeros", make([]byte, 9000)), reg("nothing", nil)}},
		"whiteouts": {{dir("d"), reg("d/a", noise(7, 9000)), reg("d/b", noise(8, 700<<10)), reg("d/c", noise(9, 10))}, {white("d", "a"), white("d", "b"), reg("d/e", noise(10, 5))}},
		"links": {{reg("a", noise(11, 5000)), {name: "b", Header: tar.Header{Typeflag: tar.TypeLink, Linkname: "a"}}, {name: "s", Header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "a"}},
			{name: "long", Header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("x/", 400)}}}, {{name: "c", Header: tar.Header{Typeflag: tar.TypeLink, Linkname: "a"}}}},
		"special": {{{name: "null", Header: tar.Header{Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}, {name: "sda", Header: tar.Header{Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 70000}}, {name: "pipe", Header: tar.Header{Typeflag: tar.TypeFifo}},
			{name: "su", Header: tar.Header{Mode: 0o6755}}}},
		"times": {{{name: "old", Header: old}, {name: "late", Header: late}}},
		"xattrs": {{{name: "cap", Header: tar.Header{PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}},
			{name: "many", Header: tar.Header{PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 60), "SCHILY.xattr.user.b": strings.Repeat("w", 2000)}}}}},
		"layers": {{dir("etc"), reg("etc/a", noise(20, 3000)), reg("etc/b", noise(21, 3000))}, {dir("opt"), reg("opt/x", noise(22, 9000))}, {reg("etc/a", noise(23, 50)), dir("etc/sub"), reg("etc/sub/new", noise(24, 70))}},
	}
}

// A sparseFile remembers which chunks were written to.
type sparseFile struct {
	*os.File
	dirty map[int64]bool
}

func (f *sparseFile) WriteAt(p []byte, off int64) (int, error) {
	for c := off / int64(Default.Chunk); c*int64(Default.Chunk) < off+int64(len(p)); c++ {
		f.dirty[c] = true
	}
	return f.File.WriteAt(p, off)
}

// build lays the image out into a file, segments included, and returns the
// file and its layout.
func build(t testing.TB, layers []*flatten.Layer, size int64) (*sparseFile, *Disk) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	f := &sparseFile{file, map[int64]bool{}}
	img := &Image{ChainID: sha256.Sum256([]byte("chain")), Size: size}
	if img.Tree, err = flatten.Merge(layers); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, Default.Chunk)
	for _, l := range layers {
		seg, err := PlanSegment(l.Entries, Default)
		if err != nil {
			t.Fatal(err)
		}
		stored := make([]bool, seg.Chunks)
		for i := range stored {
			if err := seg.ReadChunk(l, uint32(i), buf); err != nil {
				t.Fatal(err)
			}
			stored[i] = len(bytes.TrimRight(buf, "\x00")) > 0
		}
		img.Layers = append(img.Layers, Layer{Entries: l.Entries, Segment: seg, Stored: stored})
	}
	d, err := Build(img, f)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(d.Size); err != nil {
		t.Fatal(err)
	}
	for i, slot := range d.Slots {
		for k, used := range slot.Used {
			if !used {
				continue
			}
			if err := img.Layers[i].Segment.ReadChunk(layers[i], uint32(k), buf); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(buf, (int64(slot.First)+int64(k))*int64(len(buf))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f, d
}

// digest is the SHA-256 of the disk's chunks that are not zero, each after its
// index.
func digest(t testing.TB, f *sparseFile) string {
	t.Helper()
	h := sha256.New()
	buf := make([]byte, Default.Chunk)
	zero := make([]byte, Default.Chunk)
	for _, c := range slices.Sorted(maps.Keys(f.dirty)) {
		if _, err := f.ReadAt(buf, c*int64(len(buf))); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf, zero) {
			fmt.Fprintf(h, "%d\n", c)
			h.Write(buf)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// TestGolden pins the bytes of disks. A difference means that published images
// would share nothing with those made before: it needs a new Version.
func TestGolden(t *testing.T) {
	const golden = "testdata/golden.txt"
	var got []string
	for name, img := range images() {
		var layers []*flatten.Layer
		for _, files := range img {
			layers = append(layers, readLayer(t, files))
		}
		f, d := build(t, layers, 0)
		got = append(got, fmt.Sprintf("%s %d %s", name, d.Size, digest(t, f)))
	}
	slices.Sort(got)
	text := fmt.Sprintf("layout %d\n%s\n", Version, strings.Join(got, "\n"))
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("disks differ from %s:\n got %s\nwant %s", golden, text, want)
	}
}

func TestFsckFindsNothing(t *testing.T) {
	sequential(t)
	fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Skip("needs e2fsck, of the package e2fsprogs")
	}
	for name, img := range images() {
		t.Run(name, func(t *testing.T) {
			var layers []*flatten.Layer
			for _, files := range img {
				layers = append(layers, readLayer(t, files))
			}
			f, _ := build(t, layers, 0)
			out, err := exec.Command(fsck, "-fn", f.Name()).CombinedOutput()
			if err != nil {
				t.Fatalf("e2fsck: %v\n%s", err, out)
			}
		})
	}
}

// TestReadBack compares the disk's files with the tree, through the reader.
func TestReadBack(t *testing.T) {
	sequential(t)
	for name, img := range images() {
		t.Run(name, func(t *testing.T) {
			var layers []*flatten.Layer
			for _, files := range img {
				layers = append(layers, readLayer(t, files))
			}
			f, d := build(t, layers, 0)
			fsys, err := ext4.Open(f, d.Size)
			if err != nil {
				t.Fatal(err)
			}
			tree, err := flatten.Merge(layers)
			if err != nil {
				t.Fatal(err)
			}
			err = tree.Walk(func(path string, n *flatten.Node) error { return compare(t, fsys, layers, path, n) })
			if err != nil {
				t.Fatal(err)
			}
			if name == "layers" { // the suite reads byte by byte, so one small tree
				if err := fstest.TestFS(fsys, "etc/a", "etc/b", "opt/x", "etc/sub/new"); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func compare(t *testing.T, fsys *ext4.FS, layers []*flatten.Layer, path string, n *flatten.Node) error {
	in := n.Inode
	info, err := fsys.Lstat(path)
	if err != nil {
		return err
	}
	st := info.Sys().(*ext4.Stat)
	if info.Mode() != in.FileMode() || st.UID != in.UID || st.GID != in.GID || st.MTime != ext4.Time(in.MTime) {
		t.Errorf("%s: %v %d:%d %v, want %v %d:%d %v", path, info.Mode(), st.UID, st.GID, st.MTime, in.FileMode(), in.UID, in.GID, in.MTime)
	}
	if in.Kind != flatten.Dir && int(st.Links) != in.Links {
		t.Errorf("%s: %d links, want %d", path, st.Links, in.Links)
	}
	switch in.Kind {
	case flatten.Symlink:
		if to, err := fsys.ReadLink(path); err != nil || to != in.Target {
			t.Errorf("%s: links to %q (%v), want %q", path, to, err, in.Target)
		}
	case flatten.File:
		got, err := fs.ReadFile(fsys, path)
		if err != nil {
			return err
		}
		want := make([]byte, in.Size)
		if _, err := layers[in.Layer].Data.ReadAt(want, layers[in.Layer].Entries[in.Entry].Data); err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: content differs", path)
		}
	}
	return nil
}

// TestLayersStandAlone shows what deduplication rests on: a layer's segment
// keeps its bytes and its place, whatever comes above it.
func TestLayersStandAlone(t *testing.T) {
	img := images()["layers"]
	var layers []*flatten.Layer
	for _, files := range img {
		layers = append(layers, readLayer(t, files))
	}
	_, few := build(t, layers[:2], 0)
	_, all := build(t, layers, 0)
	for i := range few.Slots {
		if few.Slots[i].First != all.Slots[i].First || few.Slots[i].Chunks != all.Slots[i].Chunks {
			t.Errorf("slot %d moved from %+v to %+v", i, few.Slots[i], all.Slots[i])
		}
	}
	numbersOf := func(layers []*flatten.Layer) map[string]uint32 {
		tree, err := flatten.Merge(layers)
		if err != nil {
			t.Fatal(err)
		}
		var ls []Layer
		for _, l := range layers {
			ls = append(ls, Layer{Entries: l.Entries})
		}
		n, err := newNumbers(ls)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.assign(tree); err != nil {
			t.Fatal(err)
		}
		out := map[string]uint32{}
		_ = tree.Walk(func(path string, n *flatten.Node) error { out[path] = n.Inode.Number; return nil })
		return out
	}
	before, after := numbersOf(layers[:2]), numbersOf(layers)
	for path, number := range before {
		if after[path] != number {
			t.Errorf("%s: inode %d became %d", path, number, after[path])
		}
	}
}

func TestSize(t *testing.T) {
	layers := []*flatten.Layer{readLayer(t, images()["large"][0])}
	if _, d := build(t, layers, 0); d.Size != 2<<30 {
		t.Errorf("a small image gets a disk of %d bytes, want 2 GiB", d.Size)
	}
	if _, d := build(t, layers, 200<<20); d.Size != 200<<20 {
		t.Errorf("disk of %d bytes, want the 200 MiB that were asked for", d.Size)
	}
	img := &Image{Size: 16 << 20, Tree: &flatten.Tree{}}
	var err error
	if img.Tree, err = flatten.Merge(layers); err != nil {
		t.Fatal(err)
	}
	seg, err := PlanSegment(layers[0].Entries, Default)
	if err != nil {
		t.Fatal(err)
	}
	img.Layers = []Layer{{Entries: layers[0].Entries, Segment: seg, Stored: make([]bool, seg.Chunks)}}
	for _, size := range []int64{16 << 20, 1<<20 + 1, -1 << 20} {
		img.Size = size
		if _, err := Build(img, nil); err == nil {
			t.Errorf("size %d was accepted", size)
		}
	}
}
