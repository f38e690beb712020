//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// bufferSize is how many bytes of a file are compared at once.
const bufferSize = 256 << 10

// compare returns the differences, sorted by path. It reads the contents of
// regular files of equal size, several files at a time, each inode of a once.
func compare(a, b *tree) ([]string, error) {
	var diffs, files []string
	for name, x := range a.nodes {
		y, ok := b.nodes[name]
		if !ok {
			diffs = append(diffs, fmt.Sprintf("%s: only in %s", name, a.root))
			continue
		}
		for _, d := range compareNodes(x, y) {
			diffs = append(diffs, name+": "+d)
		}
		sameFile := x.first != name && x.first == y.first
		if x.format() == unix.S_IFREG && y.format() == unix.S_IFREG && x.stat.Size == y.stat.Size && !sameFile {
			files = append(files, name)
		}
	}
	for name := range b.nodes {
		if _, ok := a.nodes[name]; !ok {
			diffs = append(diffs, fmt.Sprintf("%s: only in %s", name, b.root))
		}
	}
	slices.Sort(files) // walk order is closer to disk order than the map's
	contents, err := compareFiles(a.root, b.root, files)
	diffs = append(diffs, contents...)
	slices.Sort(diffs)
	return diffs, err
}

func compareNodes(x, y *node) []string {
	var diffs []string
	differ := func(what string, u, v any) { diffs = append(diffs, fmt.Sprintf("%s %v, and %v", what, u, v)) }
	if x.format() != y.format() {
		differ("type", typeName(x), typeName(y))
		return diffs
	}
	if x.stat.Mode != y.stat.Mode {
		differ("mode", fmt.Sprintf("%#o", x.stat.Mode&^unix.S_IFMT), fmt.Sprintf("%#o", y.stat.Mode&^unix.S_IFMT))
	}
	if x.stat.Uid != y.stat.Uid || x.stat.Gid != y.stat.Gid {
		differ("owner", fmt.Sprintf("%d:%d", x.stat.Uid, x.stat.Gid), fmt.Sprintf("%d:%d", y.stat.Uid, y.stat.Gid))
	}
	if x.stat.Mtim != y.stat.Mtim {
		differ("mtime", timeOf(x), timeOf(y))
	}
	if x.stat.Nlink != y.stat.Nlink && (x.format() != unix.S_IFDIR || x.stat.Nlink != 1 && y.stat.Nlink != 1) {
		differ("links", x.stat.Nlink, y.stat.Nlink)
	}
	if x.first != y.first {
		differ("is a link of", x.first, y.first)
	}
	if x.target != y.target {
		differ("target", fmt.Sprintf("%q", x.target), fmt.Sprintf("%q", y.target))
	}
	device := x.format() == unix.S_IFCHR || x.format() == unix.S_IFBLK
	if device && x.stat.Rdev != y.stat.Rdev {
		differ("device", deviceOf(x), deviceOf(y))
	}
	if x.format() == unix.S_IFREG && x.stat.Size != y.stat.Size {
		differ("size", x.stat.Size, y.stat.Size)
	}
	return append(diffs, compareXattrs(x.xattrs, y.xattrs)...)
}

func compareXattrs(x, y map[string]string) []string {
	var diffs []string
	for key, u := range x {
		if v, ok := y[key]; !ok {
			diffs = append(diffs, fmt.Sprintf("xattr %s %q, and none", key, u))
		} else if u != v {
			diffs = append(diffs, fmt.Sprintf("xattr %s %q, and %q", key, u, v))
		}
	}
	for key, v := range y {
		if _, ok := x[key]; !ok {
			diffs = append(diffs, fmt.Sprintf("xattr %s none, and %q", key, v))
		}
	}
	return diffs
}

// compareFiles compares the contents of names in both trees.
func compareFiles(a, b string, names []string) ([]string, error) {
	results := make([]string, len(names))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		group.Go(func() error {
			at, err := firstDifference(filepath.Join(a, name), filepath.Join(b, name))
			if err == nil && at >= 0 {
				results[i] = fmt.Sprintf("%s: content differs from byte %d on", name, at)
			}
			return err
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(results, func(s string) bool { return s == "" }), err
}

// firstDifference returns the offset of the first byte that two files of equal
// size do not share, or -1.
func firstDifference(a, b string) (int64, error) {
	f, err := os.Open(a)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // only read from
	g, err := os.Open(b)
	if err != nil {
		return 0, err
	}
	defer func() { _ = g.Close() }()
	p, q := make([]byte, bufferSize), make([]byte, bufferSize)
	for at := int64(0); ; {
		n, err := io.ReadFull(f, p)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, err
		}
		if _, err := io.ReadFull(g, q[:n]); err != nil {
			return 0, fmt.Errorf("read %s: %w", b, err)
		}
		if !bytes.Equal(p[:n], q[:n]) {
			i := 0
			for p[i] == q[i] {
				i++
			}
			return at + int64(i), nil
		}
		if n < len(p) {
			return -1, nil
		}
		at += int64(n)
	}
}

func typeName(n *node) string {
	names := map[uint32]string{
		unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symlink", unix.S_IFIFO: "fifo",
		unix.S_IFCHR: "character device", unix.S_IFBLK: "block device", unix.S_IFSOCK: "socket",
	}
	return names[n.format()]
}

func timeOf(n *node) string {
	return strings.TrimSuffix(time.Unix(n.stat.Mtim.Unix()).UTC().Format("2006-01-02T15:04:05.000000000Z"), "Z")
}

func deviceOf(n *node) string {
	return fmt.Sprintf("%d:%d", unix.Major(n.stat.Rdev), unix.Minor(n.stat.Rdev))
}
