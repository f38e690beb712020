package ext4

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"
)

func writtenFS(t *testing.T, root *node) *FS {
	t.Helper()
	d := build(t, testConfig(), root, 0)
	fsys, err := Open(d, d.size)
	must(t, err)
	return fsys
}

func pathTree() *node {
	return directoryNode(
		entry{"d", directoryNode(entry{"f", regularNode([]byte("found"))}, entry{"up", linkNode("../../../d/./f")})},
		entry{"abs", linkNode("/d//f")}, entry{"dir", linkNode("d/")}, entry{"long", linkNode(strings.Repeat("./", 2000) + "d/f")},
		entry{"self", linkNode("self")}, entry{"dangling", linkNode("nothing")}, entry{"through", linkNode("d/f/x")})
}

func TestFSPaths(t *testing.T) {
	fsys := writtenFS(t, pathTree())
	for _, name := range []string{"d/f", "d/up", "abs", "dir/f", "dir/up", "long"} {
		if p, err := fsys.ReadFile(name); err != nil || string(p) != "found" {
			t.Errorf("%s: reads as %q, %v", name, p, err)
		}
	}
	for name, want := range map[string]error{
		"nothing": fs.ErrNotExist, "dangling": fs.ErrNotExist, "d/f/x": fs.ErrNotExist, "through": fs.ErrNotExist,
		"/d": fs.ErrInvalid, "": fs.ErrInvalid, "d/": fs.ErrInvalid, "d/../d": fs.ErrInvalid, "d/.": fs.ErrInvalid,
		"self": errLinkLoop, "self/x": errLinkLoop, strings.Repeat("n", 300): fs.ErrNotExist,
	} {
		_, err := fsys.Open(name)
		var path *fs.PathError
		if !errors.Is(err, want) || !errors.As(err, &path) || path.Path != name {
			t.Errorf("open %q: %v, want %v", name, err, want)
		}
	}
	if info, err := fsys.Lstat("self"); err != nil || info.Mode() != fs.ModeSymlink|0o777 || info.Name() != "self" {
		t.Errorf("lstat of a link: %v, %v", info, err)
	}
	for _, f := range []func() error{
		func() error { _, err := fsys.ReadLink("d"); return err },
		func() error { _, err := fsys.ReadDir("d/f"); return err },
		func() error { _, err := fsys.ReadFile("d"); return err },
	} {
		if err := f(); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%v, want %v", err, fs.ErrInvalid)
		}
	}
}

func TestFSFile(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 2000)
	clear(data[BlockSize : 3*BlockSize])
	fsys := writtenFS(t, directoryNode(entry{"f", regularNode(data)}))
	f, err := fsys.Open("f")
	must(t, err)
	if err := iotest.TestReader(f, data); err != nil {
		t.Error(err)
	}
	must(t, f.Close())
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
}

// A size is no reason to allocate, nor to read.
func TestFSHugeHole(t *testing.T) {
	w, d := newTestWriter(t, testConfig())
	const size = 15 << 40
	must(t, w.Add(&Inode{Number: 11, Mode: ModeRegular, Links: 1, Size: size}))
	must(t, w.AddDir(dirInode(RootInode), RootInode, []Dirent{{"f", 11, ModeRegular}}))
	must(t, w.Close())
	fsys, err := Open(d, d.size)
	must(t, err)
	f, err := fsys.Open("f")
	must(t, err)
	p := []byte{1, 1, 1, 1}
	if n, err := f.(io.ReaderAt).ReadAt(p, size-2); n != 2 || err != io.EOF || p[0]|p[1] != 0 {
		t.Errorf("end of the hole: %d bytes %v, %v", n, p, err)
	}
	if list, err := fsys.Extents("f"); err != nil || list != nil {
		t.Errorf("extents %v, %v", list, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	seed := seedImage(t)
	for name, c := range map[string]struct {
		at   int
		b    byte
		want error
		text string
	}{
		"journal":    {0x60, 0x46, ErrNeedsRecovery, "journal"},
		"encryption": {0x62, 1, ErrUnsupported, "encrypt"},
		"unknown":    {0x63, 0x80, ErrUnsupported, "0x80000000"},
	} {
		p := bytes.Clone(seed)
		p[superOffset+c.at] = c.b
		if _, err := Open(bytes.NewReader(p), int64(len(p))); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, size := range []int{0, 2047, 2048, len(seed) - 1} {
		_, err := Open(bytes.NewReader(seed[:size]), int64(size))
		if format := (*FormatError)(nil); !errors.As(err, &format) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if _, err := Open(bytes.NewReader(seed[:5000]), int64(len(seed))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reader that ends early: %v", err)
	}
}
