package ext4

import (
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// compareFS fails the test where fsys differs from the folder dir, which the
// operating system reads, in names, modes, times, targets and contents.
func compareFS(t *testing.T, fsys *FS, dir string) {
	t.Helper()
	want := map[string]fs.FileInfo{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want[filepath.ToSlash(name)], err = e.Info()
		return err
	}))
	must(t, fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return err
		}
		w := want[name]
		delete(want, name)
		switch {
		case name == "lost+found":
			return fs.SkipDir
		case w == nil:
			t.Errorf("%s: is not in the tree", name)
			return nil
		}
		compareFile(t, fsys, name, filepath.Join(dir, name), w, e)
		return nil
	}))
	delete(want, "lost+found")
	for name := range want {
		t.Errorf("%s: is missing", name)
	}
}

func compareFile(t *testing.T, fsys *FS, name, path string, want fs.FileInfo, e fs.DirEntry) {
	t.Helper()
	got, err := fsys.Lstat(name)
	if err != nil {
		t.Error(err)
		return
	}
	if info, err := e.Info(); err != nil || info.Mode() != got.Mode() || e.Type() != got.Mode().Type() {
		t.Errorf("%s: directory entry says %v, %v; want %v", name, e, err, got.Mode())
	}
	if got.Mode() != want.Mode() {
		t.Errorf("%s: mode %v, want %v", name, got.Mode(), want.Mode())
	}
	if st := got.Sys().(*Stat); fsys.super.inodeSize > oldInodeSize && name != "." && !got.ModTime().Equal(want.ModTime()) && st.MTime.Nsec != 0 {
		t.Errorf("%s: changed at %v, want %v", name, got.ModTime(), want.ModTime())
	}
	switch got.Mode().Type() {
	case 0:
		if got.Size() != want.Size() {
			t.Errorf("%s: %d bytes, want %d", name, got.Size(), want.Size())
		}
		compareContents(t, fsys, name, path)
	case fs.ModeSymlink:
		target, err := fsys.ReadLink(name)
		if w, werr := os.Readlink(path); err != nil || werr != nil || target != w {
			t.Errorf("%s: leads to %q, %v; want %q, %v", name, target, err, w, werr)
		}
	}
}

func compareContents(t *testing.T, fsys *FS, name, path string) {
	t.Helper()
	sum := func(f io.ReadCloser, err error) (h [32]byte) {
		t.Helper()
		if err != nil {
			t.Error(err)
			return h
		}
		defer f.Close()
		hash := sha256.New()
		if _, err := io.Copy(hash, f); err != nil {
			t.Error(err)
		}
		return [32]byte(hash.Sum(nil))
	}
	if got, want := sum(fsys.Open(name)), sum(os.Open(path)); got != want {
		t.Errorf("%s: contents differ", name)
	}
}
