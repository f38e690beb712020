package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
)

// Destroy closes the overlay, erases its key and removes its files.
func (o *Overlay) Destroy() error {
	o.life.Lock()
	defer o.life.Unlock()
	var err error
	if !o.closed {
		o.closed = true
		err = o.closeFiles()
	}
	return errors.Join(err, destroy(o.dir, o.fs, o.keys))
}

// Destroy erases the key of the overlay in a folder, and then removes its files,
// and the folder if nothing else is in it. From the first step on nothing can be read any more. It works
// for what Create left half-made, for what Open refuses, and where nothing is.
func Destroy(dir string, opts Options) error {
	fsys := opts.fs()
	journal, err := fsys.OpenFile(filepath.Join(dir, journalName), 0)
	if err == nil {
		if err := journal.Lock(); err != nil {
			return fmt.Errorf("destroy overlay %s: %w", dir, errors.Join(err, journal.Close()))
		}
		defer func() { _ = journal.Close() }()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("destroy overlay %s: %w", dir, err)
	}
	return destroy(dir, fsys, opts.keys(dir))
}

func destroy(dir string, fsys FS, keys Keys) error {
	if err := keys.Erase(); err != nil {
		return fmt.Errorf("erase key of overlay %s: %w", dir, err)
	}
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, name := range names {
		if name == indexName || name == newIndexName || name == journalName || name == recentName || strings.HasPrefix(name, layerPrefix) {
			errs = append(errs, fsys.Remove(filepath.Join(dir, name)))
		}
	}
	if err := fsys.Remove(dir); !errors.Is(err, syscall.ENOTEMPTY) { // the caller has something in it
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy overlay %s: %w", dir, err)
	}
	return nil
}
