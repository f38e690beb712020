package overlay

import (
	"fmt"
	"path/filepath"
)

// Info is what can be told of an overlay without its key and base.
type Info struct {
	BaseID   string
	BaseSize int64 // bytes
	Size     int64 // bytes
	Layers   int
	Clean    bool // closed in good order
}

// Inspect reads about the overlay in a folder, open or not. fsys may be nil, for OS.
func Inspect(dir string, fsys FS) (Info, error) {
	f, err := Options{FS: fsys}.fs().OpenFile(filepath.Join(dir, indexName), 0)
	if err != nil {
		return Info{}, fmt.Errorf("inspect overlay %s: %w", dir, err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return Info{}, fmt.Errorf("inspect overlay %s: %w", dir, err)
	}
	h, _, _, err := readIndexHeader(f, size)
	if err != nil {
		return Info{}, fmt.Errorf("inspect overlay %s: %w", dir, err)
	}
	return Info{BaseID: h.baseID, BaseSize: h.baseSize, Size: h.size, Layers: len(h.layers), Clean: h.clean}, nil
}
