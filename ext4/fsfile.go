package ext4

import (
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
)

// openFile is an open file that is no directory.
type openFile struct {
	fsys   *FS
	v      *inodeView
	name   string
	closed atomic.Bool

	mu  sync.Mutex // guards off
	off int64
}

var (
	_ fs.File       = (*openFile)(nil)
	_ io.ReadSeeker = (*openFile)(nil)
	_ io.ReaderAt   = (*openFile)(nil)
)

// size is how much there is to read.
func (f *openFile) size() int64 {
	if f.v.isRegular() {
		return f.v.Size
	}
	return 0
}

func (f *openFile) check(op string) error {
	if f.closed.Load() {
		return pathError(op, f.name, fs.ErrClosed)
	}
	return nil
}

func (f *openFile) Stat() (fs.FileInfo, error) {
	if err := f.check("stat"); err != nil {
		return nil, err
	}
	return newFileInfo(f.name, f.v), nil
}

func (f *openFile) Close() error {
	if f.closed.Swap(true) {
		return pathError("close", f.name, fs.ErrClosed)
	}
	return nil
}

func (f *openFile) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadAt may be called concurrently.
func (f *openFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.check("read"); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("read", f.name, fs.ErrInvalid, errNegativeSeek)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= f.size() {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.size()-off))
	if err := f.fsys.readData(f.v, p[:n], off); err != nil {
		return 0, pathError("read", f.name, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *openFile) Seek(offset int64, whence int) (int64, error) {
	if err := f.check("seek"); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.off
	case io.SeekEnd:
		offset += f.size()
	default:
		return 0, pathError("seek", f.name, fs.ErrInvalid)
	}
	if offset < 0 {
		return 0, pathError("seek", f.name, fs.ErrInvalid, errNegativeSeek)
	}
	f.off = offset
	return offset, nil
}
