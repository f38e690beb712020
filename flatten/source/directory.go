package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/flatten"
)

// openDirectory makes a layer of what is below root, root itself included.
// Mounts below are part of it; sockets are left out, as tar does.
func openDirectory(ctx context.Context, root string) (*Image, error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, errors.New("not a directory")
	}
	return imageOfArchive(ctx, func(ctx context.Context, w io.Writer) error {
		d := directory{root: root, out: flatten.NewArchiveWriter(w), names: make(map[fileID]string)}
		if err := d.add(ctx, "."); err != nil {
			return err
		}
		return d.out.Close()
	})
}

// A directory is written as a canonical archive, in walk order.
type directory struct {
	root  string
	out   *flatten.ArchiveWriter
	names map[fileID]string // of files with several names, the first
}

type fileID struct{ dev, ino uint64 }

// add writes path and what is below it.
func (d *directory) add(ctx context.Context, path string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	full := filepath.Join(d.root, path)
	if path == "." {
		full = d.root + "/." // also if root is a symbolic link
	}
	if base := filepath.Base(path); strings.HasPrefix(base, ".wh.") {
		return d.addMark(path, base)
	}
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: full, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil
	}
	e := flatten.Entry{Path: path}
	id := fileID{uint64(st.Dev), st.Ino} //nolint:unconvert // of another type on darwin
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if first, ok := d.names[id]; ok && !isDir {
		e.Kind, e.Target = flatten.Link, first
		return d.out.Add(&e, nil)
	}
	if !isDir && st.Nlink > 1 {
		d.names[id] = path
	}
	var err error
	if e.Attr, err = attrOf(full, &st); err != nil {
		return err
	}
	if e.Kind == flatten.File {
		return d.addFile(&e, full)
	}
	if err := d.out.Add(&e, nil); err != nil || !isDir {
		return err
	}
	return d.addChildren(ctx, path, full)
}

func (d *directory) addChildren(ctx context.Context, path, full string) error {
	children, err := os.ReadDir(full)
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := d.add(ctx, filepath.Join(path, c.Name())); err != nil {
			return err
		}
	}
	return nil
}

// addMark writes a whiteout as every archive has it, whatever the file is like.
func (d *directory) addMark(path, base string) error {
	if strings.HasPrefix(base, ".wh..wh.") && base != ".wh..wh..opq" {
		return nil
	}
	return d.out.Add(&flatten.Entry{Path: path, Attr: flatten.Attr{Kind: flatten.File}}, nil)
}

func (d *directory) addFile(e *flatten.Entry, full string) (err error) {
	// Nothing that took the file's place since may be followed or waited for.
	f, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return d.out.Add(e, f)
}

func attrOf(full string, st *unix.Stat_t) (flatten.Attr, error) {
	a := flatten.Attr{
		Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid,
		MTime: flatten.TimeOf(time.Unix(st.Mtim.Unix())),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		a.Kind, a.Size = flatten.File, st.Size
	case unix.S_IFDIR:
		a.Kind = flatten.Dir
	case unix.S_IFLNK:
		a.Kind, a.Mode = flatten.Symlink, 0o777
		var err error
		if a.Target, err = os.Readlink(full); err != nil {
			return a, err
		}
	case unix.S_IFCHR:
		a.Kind = flatten.Char
	case unix.S_IFBLK:
		a.Kind = flatten.Block
	case unix.S_IFIFO:
		a.Kind = flatten.FIFO
	default:
		return a, fmt.Errorf("%s: file of unknown type %#o", full, st.Mode&unix.S_IFMT)
	}
	if a.Kind == flatten.Char || a.Kind == flatten.Block {
		dev := uint64(st.Rdev) //nolint:unconvert // of another type on darwin
		a.Major, a.Minor = unix.Major(dev), unix.Minor(dev)
		if a.Major > flatten.MaxMajor || a.Minor > flatten.MaxMinor {
			return a, fmt.Errorf("%s: device %d:%d: at most %d:%d is supported", full, a.Major, a.Minor, flatten.MaxMajor, flatten.MaxMinor)
		}
	}
	var err error
	a.Xattrs, err = xattrsOf(full, a.Kind)
	return a, err
}

// xattrsOf returns the attributes that a layer keeps. Those that this user may
// not read do not exist for them: listing leaves them out.
func xattrsOf(full string, kind flatten.Kind) ([]flatten.Xattr, error) {
	list, err := readXattr(func(buf []byte) (int, error) { return unix.Llistxattr(full, buf) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "llistxattr", Path: full, Err: err}
	}
	var out []flatten.Xattr
	for name := range strings.SplitSeq(string(list), "\x00") {
		if !flatten.StorableXattr(name, kind) {
			continue
		}
		if strings.Contains(name, "=") {
			return nil, fmt.Errorf("%s: attribute %q: archives cannot hold a name with \"=\"", full, name)
		}
		value, err := readXattr(func(buf []byte) (int, error) { return unix.Lgetxattr(full, name, buf) })
		if err != nil {
			return nil, &os.PathError{Op: "lgetxattr " + name, Path: full, Err: err}
		}
		out = append(out, flatten.Xattr{Name: name, Value: string(value)})
	}
	slices.SortFunc(out, func(x, y flatten.Xattr) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// readXattr calls get with a buffer that is large enough. Linux gives at most
// 64 KiB.
func readXattr(get func(buf []byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := get(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, flatten.MaxXattrBytes)
		n, err = get(buf)
	}
	return buf[:max(n, 0)], err
}
