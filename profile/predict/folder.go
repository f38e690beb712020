package predict

import (
	"io"
	"io/fs"
	"strings"
)

// A folder is what is in a directory. It is read once: most of what is looked for in it is
// not there.
type folder struct {
	entries map[string]fs.DirEntry // nil: it could not be read, or has too many
	err     error                  // why it could not be read
	sorted  []string               // the names; nil until they are wanted
	stems   map[string]bool        // what names begin with, up to a dot; nil until they are wanted
}

// folder returns what is in a directory, by its path without links.
func (t *tree) folder(dir string) *folder {
	f := t.folders[dir]
	if f == nil {
		f = &folder{}
		if t.names <= maxNames {
			f.entries, f.err = t.read(dir)
			t.names += len(f.entries) + 1
		}
		t.folders[dir] = f
	}
	return f
}

// read reads a directory; nil: it cannot be read, or has too many names.
func (t *tree) read(dir string) (map[string]fs.DirEntry, error) {
	in, err := t.fsys.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	d, ok := in.(fs.ReadDirFile)
	if !ok {
		return nil, fs.ErrInvalid
	}
	most := min(maxListed, maxNames-t.names)
	list, err := d.ReadDir(most + 1)
	if err != nil && err != io.EOF || len(list) > most {
		t.names += len(list) // they were read all the same
		return nil, err
	}
	entries := make(map[string]fs.DirEntry, len(list))
	for _, e := range list {
		if _, twice := entries[e.Name()]; !twice {
			entries[e.Name()] = e
		}
	}
	return entries, nil
}

// lstat tells of a name in a directory; nil: it is not there.
func (t *tree) lstat(dir, base, full string) (fs.FileInfo, error) {
	f := t.folder(dir)
	if f.entries == nil {
		return t.fsys.Lstat(full)
	}
	e := f.entries[base]
	if e == nil {
		return nil, nil
	}
	return e.Info()
}

// begun reports whether any name in a directory is stem, or goes on with a dot behind it;
// true, too, of one that could not be read.
func (t *tree) begun(dir, stem string) bool {
	f := t.folder(dir)
	if f.entries == nil {
		return true
	}
	if f.stems == nil {
		f.stems = make(map[string]bool, len(f.entries))
		for name := range f.entries {
			name, _, _ = strings.Cut(name, ".")
			f.stems[name] = true
		}
	}
	return f.stems[stem]
}
