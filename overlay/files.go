package overlay

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// An FS is the file system that an overlay lies in. OS is the real one;
// overlaytest has one in memory that fails and loses power. Its calls may run
// at once. Names are paths; files have mode 0600 and folders 0700.
type FS interface {
	// OpenFile opens a file for reading and writing. flag may add os.O_CREATE and
	// os.O_TRUNC.
	OpenFile(name string, flag int) (File, error)
	MkdirAll(name string) error
	// ReadDir returns the names in a folder.
	ReadDir(name string) ([]string, error)
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes a folder's names survive a power cut.
	SyncDir(name string) error
	// BootID names the life of the system's cache: what was written and not synced
	// is there for whoever reads it under the same ID, also if the writer was killed.
	// ok is false where that cannot be told.
	BootID() (id [16]byte, ok bool)
}

// A File is one of an overlay's files.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the length in bytes.
	Size() (int64, error)
	// Truncate sets the length. What is added reads as zeros and takes no space.
	Truncate(size int64) error
	// Sync makes content and length survive a power cut.
	Sync() error
	// Punch makes a range read as zeros and gives its space back. The error is
	// errors.ErrUnsupported, wrapped, where that cannot be done.
	Punch(off, length int64) error
	// NextData returns the first range with data at or behind off, io.EOF if there
	// is none. Zeros may count as data.
	NextData(off int64) (from, to int64, err error)
	// Lock takes the file for this process until it is closed, or returns
	// ErrInUse, wrapped.
	Lock() error
}

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) OpenFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) MkdirAll(name string) error { return os.MkdirAll(name, 0o700) }

func (osFS) ReadDir(name string) ([]string, error) {
	d, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.Readdirnames(-1)
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(name string) error     { return os.Remove(name) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// readFull reads all of p, and calls what is missing io.ErrUnexpectedEOF.
func readFull(f File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("%d of %d bytes at %d: %w", n, len(p), off, io.ErrUnexpectedEOF)
	}
	return err
}
