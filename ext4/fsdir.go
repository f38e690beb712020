package ext4

import (
	"errors"
	"io"
	"io/fs"
	"sync"
)

// openDir is an open directory.
type openDir struct {
	fsys *FS
	v    *inodeView
	name string

	mu     sync.Mutex // guards what follows
	scan   *dirScan   // nil before the first entry is read
	closed bool
}

var _ fs.ReadDirFile = (*openDir)(nil)

func (d *openDir) Stat() (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, pathError("stat", d.name, fs.ErrClosed)
	}
	return newFileInfo(d.name, d.v), nil
}

func (d *openDir) Read([]byte) (int, error) {
	return 0, pathError("read", d.name, fs.ErrInvalid, errIsDir)
}

func (d *openDir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return pathError("close", d.name, fs.ErrClosed)
	}
	d.closed = true
	return nil
}

// ReadDir gives entries in the order of the directory.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, pathError("readdir", d.name, fs.ErrClosed)
	}
	list, err := d.read(n)
	switch {
	case err == nil:
		return list, nil
	case !errors.Is(err, io.EOF):
		return list, pathError("readdir", d.name, err)
	case n > 0 && len(list) == 0:
		return nil, io.EOF
	}
	return list, nil
}

// read gives n entries, or all for n of 0 or less, and an error if there are
// not so many.
func (d *openDir) read(n int) (list []fs.DirEntry, err error) {
	if d.scan == nil {
		if d.scan, err = d.fsys.scanDir(d.v); err != nil {
			return nil, err
		}
	}
	for n <= 0 || len(list) < n {
		e, err := d.scan.entry()
		if err != nil {
			return list, err
		}
		if e.mode == 0 {
			v, err := d.fsys.readInode(e.number)
			if err != nil {
				return list, err
			}
			e.mode = v.Mode & ModeType
		}
		list = append(list, &dirEntry{d.fsys, d.name, e})
	}
	return list, nil
}
