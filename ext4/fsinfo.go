package ext4

import (
	"io/fs"
	"path"
	"time"
)

// fileInfo is an fs.FileInfo.
type fileInfo struct {
	name string
	stat Stat
}

func newFileInfo(name string, v *inodeView) *fileInfo {
	return &fileInfo{path.Base(name), v.Stat}
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.stat.Size }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) ModTime() time.Time { return time.Unix(i.stat.MTime.Sec, int64(i.stat.MTime.Nsec)) }
func (i *fileInfo) String() string     { return fs.FormatFileInfo(i) }

func (i *fileInfo) Sys() any {
	s := i.stat
	return &s
}

// Bits of an inode's mode above the permissions.
const (
	modeSticky = 0o1000
	modeSetGID = 0o2000
	modeSetUID = 0o4000
)

func (i *fileInfo) Mode() fs.FileMode {
	m := fs.FileMode(i.stat.Mode&0o777) | goType(i.stat.Mode)
	if i.stat.Mode&modeSticky != 0 {
		m |= fs.ModeSticky
	}
	if i.stat.Mode&modeSetGID != 0 {
		m |= fs.ModeSetgid
	}
	if i.stat.Mode&modeSetUID != 0 {
		m |= fs.ModeSetuid
	}
	return m
}

// goType gives the type bits of an fs.FileMode.
func goType(mode uint16) fs.FileMode {
	switch mode & ModeType {
	case ModeFIFO:
		return fs.ModeNamedPipe
	case ModeChar:
		return fs.ModeDevice | fs.ModeCharDevice
	case ModeDir:
		return fs.ModeDir
	case ModeBlock:
		return fs.ModeDevice
	case ModeSymlink:
		return fs.ModeSymlink
	case ModeSocket:
		return fs.ModeSocket
	}
	return 0
}

// dirEntry is an fs.DirEntry.
type dirEntry struct {
	fsys *FS
	dir  string
	direntView
}

func (e *dirEntry) Name() string      { return e.name }
func (e *dirEntry) IsDir() bool       { return e.mode == ModeDir }
func (e *dirEntry) Type() fs.FileMode { return goType(e.mode) }
func (e *dirEntry) String() string    { return fs.FormatDirEntry(e) }

// Info reads the inode, with no search for the name.
func (e *dirEntry) Info() (fs.FileInfo, error) {
	v, err := e.fsys.readInode(e.number)
	if err != nil {
		return nil, pathError("lstat", path.Join(e.dir, e.name), err)
	}
	return newFileInfo(e.name, v), nil
}
