package publish

import (
	"fmt"
	"math"
	"strings"

	"github.com/rivuletfs/rivulet/flatten"
)

// Bounds of a record that is believed, those of a layer that flatten reads.
const (
	maxRecordItems  = 10_000_000 // entries; whiteouts; opaque directories
	maxRecordChunks = 1 << 22
	maxLayerBytes   = 1 << 40
)

// checkLayer reports where a layer breaks the promises of flatten.Layer, on
// which merging and laying out rely: a record comes from a store, and a store
// may hold anything.
func checkLayer(l *flatten.Layer) error {
	bytes := int64(0)
	var above []*flatten.Entry // what may be a parent, from the root down
	for i := range l.Entries {
		e := &l.Entries[i]
		if err := checkEntry(e); err != nil {
			return err
		}
		if i > 0 && flatten.ComparePaths(l.Entries[i-1].Path, e.Path) >= 0 {
			return fmt.Errorf("%w: entry %q is out of order", errRecord, e.Path)
		}
		if bytes += e.Size; bytes > maxLayerBytes {
			return fmt.Errorf("%w: more than %d bytes of files", errRecord, int64(maxLayerBytes))
		}
		if e.Path == "." {
			continue
		}
		dir := parentOf(e.Path)
		for len(above) > 0 && above[len(above)-1].Path != dir {
			above = above[:len(above)-1]
		}
		if len(above) == 0 && dir != "." {
			return fmt.Errorf("%w: entry %q has no parent", errRecord, e.Path)
		}
		if e.Kind == flatten.Dir || e.Kind == flatten.Symlink {
			above = append(above, e)
		}
	}
	for _, list := range [][]string{l.Whiteouts, l.Opaques} {
		for _, path := range list {
			if !validPath(path) {
				return fmt.Errorf("%w: hidden path %q", errRecord, path)
			}
		}
	}
	return nil
}

func checkEntry(e *flatten.Entry) error {
	isLink := e.Kind == flatten.Symlink || e.Kind == flatten.Link
	isDevice := e.Kind == flatten.Char || e.Kind == flatten.Block
	switch {
	case !validPath(e.Path), e.Path == "." && e.Kind != flatten.Dir:
		return fmt.Errorf("%w: path %q", errRecord, e.Path)
	case e.Implied && e.Kind != flatten.Dir,
		e.Size != 0 && e.Kind != flatten.File,
		isLink != (e.Target != ""), len(e.Target) > flatten.MaxPathBytes, strings.IndexByte(e.Target, 0) >= 0,
		e.Kind == flatten.Link && !validPath(e.Target),
		!isDevice && (e.Major != 0 || e.Minor != 0), e.Major > flatten.MaxMajor, e.Minor > flatten.MaxMinor:
		return fmt.Errorf("%w: entry %q contradicts itself", errRecord, e.Path)
	}
	for i, x := range e.Xattrs {
		if x.Name == "" || len(x.Name) > math.MaxUint8 || len(x.Value) > flatten.MaxXattrBytes || i > 0 && e.Xattrs[i-1].Name >= x.Name {
			return fmt.Errorf("%w: attributes of %q", errRecord, e.Path)
		}
	}
	return nil
}

// validPath reports whether path is one that flatten.Entry allows.
func validPath(path string) bool {
	if path == "." {
		return true
	}
	if len(path) > flatten.MaxPathBytes || strings.IndexByte(path, 0) >= 0 {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || len(part) > flatten.MaxNameBytes {
			return false
		}
	}
	return true
}

func parentOf(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "."
	}
	return path[:i]
}
