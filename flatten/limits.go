package flatten

import (
	"errors"
	"fmt"
)

// Bounds of what a layer may hold, by the unit that their names say.
const (
	MaxNameBytes   = 255      // one part of a path
	MaxPathBytes   = 4095     // a whole path, and the target of a link
	MaxDepth       = 4096     // directories above one another
	MaxXattrBytes  = 64 << 10 // one attribute's value
	MaxMajor       = 1<<12 - 1
	MaxMinor       = 1<<20 - 1
	MaxSparseBytes = 64 << 30 // logical bytes of all sparse entries of a layer
)

// Limits bounds what one layer may take. A zero field means its default.
type Limits struct {
	MaxEntries       int   // entries and whiteouts; default 10 million
	MaxFileBytes     int64 // one file; default 1 TiB
	MaxLayerBytes    int64 // all files, replaced ones too; default 1 TiB
	MaxMetadataBytes int64 // names, targets and attributes; default 1 GiB
}

func (l Limits) withDefaults() Limits {
	if l.MaxEntries == 0 {
		l.MaxEntries = maxEntries
	}
	if l.MaxFileBytes == 0 {
		l.MaxFileBytes = 1 << 40
	}
	if l.MaxLayerBytes == 0 {
		l.MaxLayerBytes = 1 << 40
	}
	if l.MaxMetadataBytes == 0 {
		l.MaxMetadataBytes = 1 << 30
	}
	return l
}

// maxEntries is the default of Limits.MaxEntries, and the most that Merge takes
// in all layers together.
const maxEntries = 10_000_000

// ErrLimit is returned (wrapped) for a layer that is larger than a limit allows.
var ErrLimit = errors.New("limit exceeded")

// An EntryError says which entry of an archive is refused, and why.
type EntryError struct {
	Path string // as it stands in the archive
	Err  error
}

func (e *EntryError) Error() string { return fmt.Sprintf("entry %q: %v", e.Path, e.Err) }

func (e *EntryError) Unwrap() error { return e.Err }
