package ext4

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"testing"
)

// seedImage is a file system of 256 KiB with blocks of 1 KiB made by mke2fs:
// testdata/seed.sh says how.
func seedImage(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/seed.ext4.gz")
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	p, err := io.ReadAll(z)
	must(t, err)
	return p
}

// walkBudget bounds what a walk over a hostile file system looks at.
type walkBudget struct {
	t       testing.TB
	fsys    *FS
	entries int
	bytes   int
}

// walk reads everything below a directory as far as the budget goes.
func (b *walkBudget) walk(dir string) {
	f, err := b.fsys.Open(dir)
	if err != nil {
		b.check(err)
		return
	}
	defer f.Close()
	for b.entries > 0 {
		list, err := f.(fs.ReadDirFile).ReadDir(10)
		for _, e := range list {
			b.entries--
			b.visit(path.Join(dir, e.Name()), e)
		}
		if err != nil {
			b.check(err)
			return
		}
	}
}

func (b *walkBudget) visit(name string, e fs.DirEntry) {
	if !fs.ValidPath(name) {
		return // not UTF-8
	}
	if _, err := e.Info(); err != nil {
		b.check(err)
		return
	}
	_, err := b.fsys.Xattrs(name)
	b.check(err)
	_, err = b.fsys.Extents(name)
	b.check(err)
	info, err := b.fsys.Lstat(name)
	if err != nil {
		b.check(err)
		return
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		b.walk(name)
	case fs.ModeSymlink:
		_, err = b.fsys.ReadLink(name)
		b.check(err)
		_, err = b.fsys.Stat(name)
		b.check(err)
	case 0:
		b.read(name, info.Size())
	}
}

func (b *walkBudget) read(name string, size int64) {
	f, err := b.fsys.Open(name)
	if err != nil {
		b.check(err)
		return
	}
	defer f.Close()
	p := make([]byte, 1000)
	for _, off := range []int64{0, 12 << 10, 270 << 10, 70 << 20, size / 2, size - 10} {
		if b.bytes -= len(p); b.bytes < 0 || off < 0 {
			return
		}
		if _, err := f.(io.ReaderAt).ReadAt(p, off); err != nil && err != io.EOF {
			b.check(err)
		}
	}
}

// check fails the test for an error that is not one of those that bad bytes
// may cause.
func (b *walkBudget) check(err error) {
	var format *FormatError
	var path *fs.PathError
	switch {
	case err == nil, err == io.EOF:
	case !errors.As(err, &path):
		b.t.Fatalf("%v is no *fs.PathError", err)
	case errors.As(err, &format), errors.Is(err, ErrUnsupported), errors.Is(err, fs.ErrNotExist),
		errors.Is(err, errLinkLoop), errors.Is(err, io.ErrUnexpectedEOF):
	default:
		b.t.Fatalf("unexpected error %v", err)
	}
}

func readHostile(t testing.TB, p []byte) {
	t.Helper()
	fsys, err := Open(bytes.NewReader(p), int64(len(p)))
	if err != nil {
		var format *FormatError
		if !errors.As(err, &format) && !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrNeedsRecovery) {
			t.Fatalf("unexpected error %v", err)
		}
		return
	}
	b := walkBudget{t: t, fsys: fsys, entries: 500, bytes: 1 << 20}
	b.walk(".")
	owners, err := fsys.Owners(t.Context(), []Range{{0, fsys.super.blocks}})
	if err != nil {
		b.check(&fs.PathError{Op: "owners", Path: ".", Err: err})
		return
	}
	next := uint64(0)
	for _, o := range owners {
		if o.Start != next {
			t.Fatalf("owner %+v, want one from block %d on", o, next)
		}
		next += o.Count
	}
	if next != fsys.super.blocks {
		t.Fatalf("owners of %d blocks, want %d", next, fsys.super.blocks)
	}
}

// FuzzOpen reads all of the seed with patches: three bytes of an offset, and
// the byte to put there.
func FuzzOpen(f *testing.F) {
	seed := seedImage(f)
	f.Add([]byte(nil))
	f.Add([]byte{0, 4, 56, 0, 0, 4, 57, 0})
	f.Add([]byte{0, 4, 0x64, 0, 0, 4, 0x65, 0, 1, 0x40, 0, 0xff})
	f.Fuzz(func(t *testing.T, patches []byte) {
		p := bytes.Clone(seed)
		for ; len(patches) >= 4; patches = patches[4:] {
			at := int(patches[0])<<16 | int(patches[1])<<8 | int(patches[2])
			p[at%len(p)] = patches[3]
		}
		readHostile(t, p)
	})
}

// Bytes all over the metadata are damaged, where there are no checksums to
// tell; beyond the first inodes, every seventh that is not one of many alike.
func TestReadFlipped(t *testing.T) {
	sequential(t)
	seed := seedImage(t)
	readHostile(t, seed)
	for at := superOffset; at < len(seed); at++ {
		if at > 16<<10 && (at%7 != 0 || seed[at] == seed[at-1]) || seed[at] == 0 && at%16 != 0 {
			continue
		}
		old := seed[at]
		seed[at] ^= []byte{0xff, 1, 4, 0x80}[at/5%4]
		readHostile(t, seed)
		seed[at] = old
	}
}
