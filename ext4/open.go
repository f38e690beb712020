package ext4

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// FS is a file system opened for reading. Names are those of [io/fs], "." is
// the root. Symbolic links are followed inside of the file system, absolute
// ones from its root, at most 40 in one name; Lstat, ReadLink, Xattrs and
// Extents do not follow the last one.
//
// Errors are *fs.PathError, and wrap fs.ErrNotExist, fs.ErrInvalid, a
// *FormatError, ErrUnsupported, or what the io.ReaderAt returned. All methods
// may be called concurrently if those of the io.ReaderAt may. An FS keeps at
// most 4 MiB of the blocks that describe files, never their contents.
type FS struct {
	r     io.ReaderAt
	super *superView
	cache blockCache
}

var (
	_ fs.StatFS     = (*FS)(nil)
	_ fs.ReadDirFS  = (*FS)(nil)
	_ fs.ReadFileFS = (*FS)(nil)
	_ fs.ReadLinkFS = (*FS)(nil)
)

// Open reads the superblock and the root of the file system in r, which is
// size bytes long. All else is read when it is asked for, and checked against
// its checksum if it has one.
//
// It opens what mke2fs makes under any of the names ext2, ext3 and ext4, with
// blocks of 1 to 64 KiB. It returns a *FormatError for a damaged file system,
// an error that wraps ErrUnsupported and names the features if it uses some
// that this package does not know, and ErrNeedsRecovery for one that was not
// unmounted. The FS never closes r.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	if size < superOffset+superSize {
		return nil, badSuper("a device of %d bytes has none", size)
	}
	p := make([]byte, superSize)
	if err := readFull(r, p, superOffset); err != nil {
		return nil, fmt.Errorf("ext4: read superblock: %w", err)
	}
	s, err := readSuper(p, size)
	if err != nil {
		return nil, err
	}
	if s.incompat&incompatRecover != 0 {
		return nil, ErrNeedsRecovery
	}
	fsys := &FS{r: r, super: s}
	fsys.cache.init(cacheBytes / s.blockSize)
	root, err := fsys.readInode(RootInode)
	if err != nil {
		return nil, err
	}
	if !root.isDir() {
		return nil, root.damaged("the root is not a directory")
	}
	return fsys, nil
}

// readFull reads len(p) bytes at off. To end before is an error.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
