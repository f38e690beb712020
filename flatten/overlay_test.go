//go:build linux

package flatten

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// unpackOverlay writes a layer as the upper directory of an overlay mount.
func unpackOverlay(t *testing.T, l *Layer, dir string) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range l.Entries {
		e := &l.Entries[i]
		at := filepath.Join(dir, e.Path)
		switch e.Kind {
		case Dir:
			check(os.MkdirAll(at, 0o700))
			check(os.Chmod(at, e.FileMode().Perm()))
		case File:
			data := make([]byte, e.Size)
			_, err := l.Data.ReadAt(data, e.Data)
			check(err)
			check(os.WriteFile(at, data, e.FileMode().Perm()))
		case Symlink:
			check(os.Symlink(e.Target, at))
		}
	}
	for i := range l.Entries {
		if e := &l.Entries[i]; e.Kind == Link {
			check(os.Link(filepath.Join(dir, e.Target), filepath.Join(dir, e.Path)))
		}
	}
	for _, path := range l.Opaques {
		check(unix.Setxattr(filepath.Join(dir, path), "trusted.overlay.opaque", []byte("y"), 0))
	}
	for _, path := range l.Whiteouts {
		at := filepath.Join(dir, path)
		switch info, err := os.Lstat(at); {
		case err != nil:
			check(unix.Mknod(at, unix.S_IFCHR, 0))
		case info.IsDir():
			check(unix.Setxattr(at, "trusted.overlay.opaque", []byte("y"), 0))
		}
	}
}

// listOverlay writes a mounted tree as showTree does, with the link counts of
// files in place of the names' first.
func listOverlay(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	var walk func(path string)
	walk = func(path string) {
		at := filepath.Join(dir, path)
		info, err := os.Lstat(at)
		if os.IsNotExist(err) {
			return // a whiteout in a directory of one layer: listed, but not there
		}
		if err != nil {
			t.Fatal(err)
		}
		links := info.Sys().(*syscall.Stat_t).Nlink
		switch mode := info.Mode(); {
		case mode.IsDir():
			fmt.Fprintf(&b, "%s dir %04o\n", path, mode.Perm())
			children, err := os.ReadDir(at)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range children {
				walk(filepath.Join(path, c.Name()))
			}
		case mode.IsRegular():
			data, err := os.ReadFile(at)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s file %04o %q %d\n", path, mode.Perm(), data, links)
		default:
			target, err := os.Readlink(at)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s symlink 0777 ->%s %d\n", path, target, links)
		}
	}
	walk(".")
	return b.String()
}

func listTree(t *testing.T, tree *Tree, layers []*Layer) string {
	t.Helper()
	var b strings.Builder
	err := tree.Walk(func(path string, n *Node) error {
		in := n.Inode
		fmt.Fprintf(&b, "%s %s", path, showAttr(&in.Attr))
		if in.Kind == File {
			data := make([]byte, in.Size)
			if _, err := layers[in.Layer].Data.ReadAt(data, layers[in.Layer].Entries[in.Entry].Data); err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		}
		if in.Kind != Dir {
			fmt.Fprintf(&b, " %d", in.Links)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// simple reports whether an overlay mount can be made of the layers and counts
// links as the tree does: no path through a symbolic link, no directory that an
// upper layer only implies, no link across layers, no name hidden of an inode that keeps another, no opaque root.
func simple(layers []*Layer) bool {
	for i, l := range layers {
		for k := range l.Entries {
			e := &l.Entries[k]
			if dir, _ := splitPath(e.Path); dir != "." {
				for _, lower := range layers {
					for _, p := range ancestors(e.Path) {
						if at, ok := lower.find(p); ok && lower.Entries[at].Kind != Dir {
							return false
						}
					}
				}
			}
			if e.Implied && !impliedBelow(layers[:i], e.Path) {
				return false
			}
			if e.Kind == Link && (i != len(layers)-1 || !holds(l, e.Target)) {
				return false
			}
		}
		for _, w := range append(l.Whiteouts, l.Opaques...) {
			at, ok := l.find(w)
			for _, p := range ancestors(w) {
				if k, found := l.find(p); !found || l.Entries[k].Kind != Dir {
					return false
				}
			}
			if w == "." || ok && l.Entries[at].Kind != Dir {
				return false
			}
		}
		for _, o := range l.Opaques {
			if !holds(l, o) {
				return false
			}
		}
	}
	return true
}

// impliedBelow reports whether no layer names the directory: the upper one of a
// mount gives the attributes.
func impliedBelow(layers []*Layer, path string) bool {
	for _, l := range layers {
		if at, ok := l.find(path); ok && !l.Entries[at].Implied {
			return false
		}
	}
	return true
}

func holds(l *Layer, path string) bool {
	_, ok := l.find(path)
	return ok
}

func TestMergeAgainstOverlay(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts overlayfs")
	}
	r := rand.New(rand.NewPCG(3, 4))
	mounted := 0
	for tries := 0; mounted < 60 && tries < 20_000; tries++ {
		data := make([]byte, 3+r.IntN(30))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		var layers []*Layer
		for _, items := range generate(data) {
			if l, err := readBytes(archive(t, items...), Limits{}); err == nil {
				layers = append(layers, l)
			}
		}
		if len(layers) < 2 || !simple(layers) {
			continue
		}
		if !compareOverlay(t, layers, describe(generate(data))) {
			t.Skip("needs overlayfs on a file system that can be its upper layer")
		}
		mounted++
	}
	if mounted < 30 {
		t.Errorf("only %d mounts", mounted)
	}
}

// compareOverlay reports false if nothing can be mounted here.
func compareOverlay(t *testing.T, layers []*Layer, what string) bool {
	base, err := os.MkdirTemp("/var/tmp", "flatten-overlay-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(base) }()
	var lower []string
	for i, l := range append([]*Layer{{}}, layers...) {
		dir := filepath.Join(base, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		unpackOverlay(t, l, dir)
		lower = append([]string{dir}, lower...)
	}
	mnt := filepath.Join(base, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", mnt, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Log(err)
		return false
	}
	defer func() { _ = unix.Unmount(mnt, 0) }()
	got := listTree(t, mustMerge(t, layers...), layers)
	if want := listOverlay(t, mnt); got != want {
		t.Fatalf("%sgot\n%swant\n%s", what, got, want)
	}
	return true
}
