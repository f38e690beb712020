// Package rootfs writes an image's tree into a folder, so that its programs can be run
// there by package sandbox.
//
// The folder is for reading: all files belong to whoever wrote it, set-user-ID bits and
// extended attributes are left out, and so are devices and pipes. Nothing is written
// outside of it, whatever the tree has.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/source"
)

// needed are the folders that a sandbox mounts something on.
var needed = []string{"dev", "proc", "run", "tmp"}

// Write writes the tree of layers, lowest first, into dir, which is empty. The layers' data
// go through temporary files in tempDir.
func Write(ctx context.Context, layers []*source.Layer, dir, tempDir string) (err error) {
	read := make([]*flatten.Layer, len(layers))
	for i, l := range layers {
		spool, err := os.CreateTemp(tempDir, "rivulet-rootfs-*")
		if err != nil {
			return err
		}
		defer func() { _ = spool.Close() }()
		if err := os.Remove(spool.Name()); err != nil {
			return err
		}
		if read[i], err = l.Read(ctx, spool); err != nil {
			return err
		}
	}
	tree, err := flatten.Merge(read)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := writer{root: root, layers: read, names: make(map[*flatten.Inode]string)}
	if err := tree.Walk(func(path string, n *flatten.Node) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.add(path, n); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range needed {
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err := root.Lstat(name); err != nil || !info.IsDir() {
			return errors.Join(err, fmt.Errorf("%s is no folder", name))
		}
	}
	return nil
}

type writer struct {
	root   *os.Root
	layers []*flatten.Layer
	names  map[*flatten.Inode]string // of files that were written
}

func (w *writer) add(path string, n *flatten.Node) error {
	in := n.Inode
	mode := fs.FileMode(in.Mode & 0o777)
	switch in.Kind {
	case flatten.Dir:
		if path == "." {
			return w.root.Chmod(".", 0o755)
		}
		if err := w.root.Mkdir(path, 0o700); err != nil {
			return err
		}
		return w.root.Chmod(path, mode|0o700) // so that it can be filled, whatever the umask
	case flatten.Symlink:
		return w.root.Symlink(in.Target, path)
	case flatten.File:
		if first, ok := w.names[in]; ok {
			return w.root.Link(first, path)
		}
		w.names[in] = path
		return w.addFile(path, mode, in)
	}
	return nil
}

func (w *writer) addFile(path string, mode fs.FileMode, in *flatten.Inode) (err error) {
	f, err := w.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l := w.layers[in.Layer]
	if _, err := io.Copy(f, io.NewSectionReader(l.Data, l.Entries[in.Entry].Data, in.Size)); err != nil {
		return err
	}
	return f.Chmod(mode | 0o400)
}
