//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A node is what one name of a tree leads to.
type node struct {
	stat   unix.Stat_t
	target string            // of a symlink
	xattrs map[string]string // nil without any
	first  string            // the first name, in walk order, of this inode
}

// A tree is a directory read whole, contents apart.
type tree struct {
	root  string
	nodes map[string]*node // by path relative to root; "." is root itself
	bytes int64            // of regular files, each inode once
}

func (n *node) format() uint32 { return n.stat.Mode & unix.S_IFMT }

// readTree walks root without following symlinks and without leaving its file
// system, so that something mounted inside is not taken for content.
func readTree(root string, except map[string]bool) (*tree, error) {
	t := &tree{root: root, nodes: make(map[string]*node)}
	firsts := make(map[uint64]string)
	var device uint64
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if except[rel] {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		n, err := readNode(name)
		if err != nil {
			return err
		}
		if rel == "." {
			device = n.stat.Dev
		} else if n.stat.Dev != device {
			return fmt.Errorf("%s: another file system is mounted here", name)
		}
		n.first = rel
		if first, ok := firsts[n.stat.Ino]; ok {
			n.first = first
		} else {
			firsts[n.stat.Ino] = rel
			if n.format() == unix.S_IFREG {
				t.bytes += n.stat.Size
			}
		}
		t.nodes[rel] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read tree %s: %w", root, err)
	}
	t.forgetExcepted(except)
	return t, nil
}

// forgetExcepted takes directories left out off their parents' link counts.
func (t *tree) forgetExcepted(except map[string]bool) {
	for p := range except {
		info, err := os.Lstat(filepath.Join(t.root, p))
		if err != nil || !info.IsDir() {
			continue
		}
		if parent := t.nodes[filepath.Dir(p)]; parent != nil && parent.stat.Nlink > 1 {
			parent.stat.Nlink--
		}
	}
}

func readNode(name string) (*node, error) {
	n := &node{}
	if err := unix.Lstat(name, &n.stat); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	if n.format() == unix.S_IFLNK {
		var err error
		if n.target, err = os.Readlink(name); err != nil {
			return nil, err
		}
	}
	var err error
	n.xattrs, err = readXattrs(name)
	return n, err
}

func readXattrs(name string) (map[string]string, error) {
	list, err := readSized(name, "list xattrs", func(buf []byte) (int, error) { return unix.Llistxattr(name, buf) })
	if errors.Is(err, unix.ENOTSUP) || len(list) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	xattrs := make(map[string]string)
	for key := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		value, err := readSized(name, "xattr "+key, func(buf []byte) (int, error) { return unix.Lgetxattr(name, key, buf) })
		if err != nil {
			return nil, err
		}
		xattrs[key] = string(value)
	}
	return xattrs, nil
}

// readSized asks read for a size and then for that many bytes.
func readSized(name, op string, read func([]byte) (int, error)) ([]byte, error) {
	size, err := read(nil)
	if err == nil && size > 0 {
		buf := make([]byte, size)
		size, err = read(buf)
		if err == nil {
			return buf[:size], nil
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil, nil
}
