package mountpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestResolve(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a/b/c", "d", "a/dotted."} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"toC":     "a/b/c",
		"toToC":   "toC",
		"d/above": filepath.Join(root, "a/b"),
		"upwards": "d/above/../../d", // of where the link leads: root/a/..
		"dots":    "d/above/..",
		"slash":   "a/b/",
		"dot":     "a/b/.",
		"both":    "toC//././/",
		"itself":  ".",
		"name":    "a/dotted.",
		"top":     "/.",
		"nowhere": "none/at/all",
		"missing": "none",
		"loop":    "pool",
		"pool":    "loop",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for dir, want := range map[string]string{
		"d": "d", "d/": "d", "d/../a": "a", "toC": "a/b/c", "toToC": "a/b/c", "d/above/c": "a/b/c",
		"upwards": "d", "dots": "a", "slash": "a/b", "dot": "a/b", "both": "a/b/c",
		"itself": "", "name": "a/dotted.", ".": "",
	} {
		if got, err := Resolve(root + "/" + dir); err != nil || got != filepath.Join(root, want) {
			t.Errorf("%s: %q, %v; want %s below %s", dir, got, err, want, root)
		}
	}
	for _, dir := range []string{"nowhere", "missing", "none", "none/d"} {
		if got, err := Resolve(filepath.Join(root, dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v; want that there is none", dir, got, err)
		}
	}
	if got, err := Resolve(filepath.Join(root, "loop")); err == nil {
		t.Errorf("a loop of links leads to %s", got)
	}
	t.Chdir(filepath.Join(root, "a"))
	if got, err := Resolve("b"); err != nil || got != filepath.Join(root, "a/b") {
		t.Errorf("a relative path: %q, %v", got, err)
	}
	for _, dir := range []string{"/", filepath.Join(root, "top")} {
		if got, err := Resolve(dir); err != nil || got != "/" {
			t.Errorf("the root: %q, %v", got, err)
		}
	}
}
