package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Keys holds the key of one overlay, KeySize bytes, wherever the caller wants it:
// in a file, wrapped, or in memory alone, which makes the overlay end with the
// process. The overlay asks for it at Create and Open, and keeps no copy but in
// memory.
type Keys interface {
	// Load returns the key, or fs.ErrNotExist, wrapped.
	Load() ([]byte, error)
	// Store keeps a new key, durably, in the place of an old one.
	Store(key []byte) error
	// Erase makes the key be gone for good. There being none is no error.
	Erase() error
}

// FileKeys keeps a key readable in a file of mode 0600.
func FileKeys(fsys FS, path string) Keys { return fileKeys{fsys, path} }

type fileKeys struct {
	fs   FS
	path string
}

func (k fileKeys) Load() ([]byte, error) {
	f, err := k.fs.OpenFile(k.path, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if size, err := f.Size(); err != nil || size != KeySize {
		return nil, fmt.Errorf("%s: has %d bytes, want %d: %w", k.path, size, KeySize, errors.Join(ErrKey, err))
	}
	key := make([]byte, KeySize)
	return key, readFull(f, key, 0)
}

func (k fileKeys) Store(key []byte) error {
	f, err := k.fs.OpenFile(k.path, os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(key, 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), k.fs.SyncDir(filepath.Dir(k.path)))
}

// Erase overwrites the key before it removes the file. A flash disk, or a file
// system that copies on write, may keep the old bytes for a while.
func (k fileKeys) Erase() error {
	f, err := k.fs.OpenFile(k.path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, KeySize), 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), k.fs.Remove(k.path), k.fs.SyncDir(filepath.Dir(k.path)))
}
