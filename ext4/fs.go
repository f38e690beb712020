package ext4

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// firstRead bounds what ReadFile allocates before it has read anything, in
// bytes: a size is just a number on the disk.
const firstRead = 1 << 20

// Open opens a file for reading. Unless it is a directory it is an io.ReaderAt
// and an io.Seeker too; holes, and blocks that were reserved but not written,
// read as zeros. A directory is an fs.ReadDirFile. Devices, FIFOs and sockets
// are empty. Reading a file past its end is io.EOF, after Close fs.ErrClosed.
func (fsys *FS) Open(name string) (fs.File, error) {
	v, err := fsys.walk("open", name, true)
	if err != nil {
		return nil, err
	}
	if v.isDir() {
		return &openDir{fsys: fsys, v: v, name: name}, nil
	}
	return &openFile{fsys: fsys, v: v, name: name}, nil
}

// Stat tells of a file; a symbolic link is followed. The Sys method of the
// result returns a *Stat.
func (fsys *FS) Stat(name string) (fs.FileInfo, error) { return fsys.stat("stat", name, true) }

// Lstat is Stat without following a symbolic link.
func (fsys *FS) Lstat(name string) (fs.FileInfo, error) { return fsys.stat("lstat", name, false) }

func (fsys *FS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	v, err := fsys.walk(op, name, follow)
	if err != nil {
		return nil, err
	}
	return newFileInfo(name, v), nil
}

// ReadLink returns the target of a symbolic link as it stands there, up to
// 4095 bytes.
func (fsys *FS) ReadLink(name string) (string, error) {
	v, err := fsys.walk("readlink", name, false)
	if err != nil {
		return "", err
	}
	if !v.isSymlink() {
		return "", pathError("readlink", name, fs.ErrInvalid, errNotSymlink)
	}
	target, err := fsys.readTarget(v)
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return target, nil
}

// ReadDir lists a directory, sorted by name.
func (fsys *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	v, err := fsys.walk("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !v.isDir() {
		return nil, pathError("readdir", name, fs.ErrInvalid, errNotDir)
	}
	d := openDir{fsys: fsys, v: v, name: name}
	list, err := d.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// ReadFile reads a whole file. One that is mostly hole is given as the zeros it
// reads as: who does not trust a file system looks at the size first.
func (fsys *FS) ReadFile(name string) ([]byte, error) {
	v, err := fsys.walk("read", name, true)
	if err != nil {
		return nil, err
	}
	if v.isDir() {
		return nil, pathError("read", name, fs.ErrInvalid, errIsDir)
	}
	f := openFile{fsys: fsys, v: v, name: name}
	p := make([]byte, 0, min(f.size(), firstRead))
	for int64(len(p)) < f.size() {
		if len(p) == cap(p) {
			p = slices.Grow(p, int(min(f.size()-int64(len(p)), int64(len(p)))))
		}
		n, err := f.ReadAt(p[len(p):cap(p)], int64(len(p)))
		p = p[:len(p)+n]
		if err != nil && !errors.Is(err, io.EOF) {
			return p, err
		}
	}
	return p[:min(int64(len(p)), f.size())], nil
}

// Xattrs returns the extended attributes of a file, a symbolic link's own,
// sorted by name. It wraps ErrUnsupported if one is kept in an inode of its
// own (ea_inode).
func (fsys *FS) Xattrs(name string) ([]Xattr, error) {
	v, err := fsys.walk("xattrs", name, false)
	if err != nil {
		return nil, err
	}
	list, err := fsys.readXattrs(v)
	if err != nil {
		return nil, pathError("xattrs", name, err)
	}
	return list, nil
}

// Extents returns where the contents of a file, a symbolic link's own or a
// directory's lie, by rising Logical, in blocks of [FS.BlockSize]. What has no
// place on the device is left out: holes, reserved blocks that were not
// written, and contents that are kept in the inode. They end with the size.
func (fsys *FS) Extents(name string) ([]Extent, error) {
	v, err := fsys.walk("extents", name, false)
	if err != nil {
		return nil, err
	}
	var list []Extent
	if fsys.hasBlocks(v) {
		err = fsys.eachRun(v, func(logical uint64, r run) error {
			if r.start != 0 {
				list = append(list, Extent{uint32(logical), uint32(r.count), r.start})
			}
			return nil
		})
	}
	if err != nil {
		return nil, pathError("extents", name, err)
	}
	return list, nil
}

// BlockSize is the size of the file system's blocks in bytes.
func (fsys *FS) BlockSize() int { return fsys.super.blockSize }

// hasBlocks says whether the file's block area tells of blocks.
func (fsys *FS) hasBlocks(v *inodeView) bool {
	if v.Flags&flagInlineData != 0 {
		return false
	}
	return v.isRegular() || v.isDir() || v.isSymlink() && v.Size >= inodeBlockSize
}

// pathError joins what went wrong to an *fs.PathError.
func pathError(op, name string, causes ...error) error {
	err := causes[0]
	if len(causes) > 1 {
		err = &classError{causes[0], causes[1]}
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// A classError says what happened and is, for errors.Is, of a class too.
type classError struct{ class, err error }

func (e *classError) Error() string   { return e.err.Error() }
func (e *classError) Unwrap() []error { return []error{e.class, e.err} }
