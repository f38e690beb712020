//go:build linux

package snapshotter

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
)

// ErrNoDisk says that there is no disk of an image.
var ErrNoDisk = errors.New("no disk is published")

// A Disk names a published disk.
type Disk struct {
	Store  string        `json:"store"`  // URL
	Digest digest.Digest `json:"digest"` // of its block map
}

// A Found is a disk and the image that it is of.
type Found struct {
	Disk
	// Layers are the image's diff IDs, lowest first. Those of one chain ID have
	// the same files on every disk.
	Layers []digest.Digest
}

// A Query says what to look for: the image whose manifest has that digest, or, if
// Manifest is empty, any with that chain ID.
type Query struct {
	Reference string        // of the image, as it was pulled; "": unknown
	Manifest  digest.Digest // of the manifest for this platform
	Chain     digest.Digest // chain ID
}

// A Finder finds published disks. Any number of calls may run at once.
type Finder interface {
	// Find looks until ctx ends at the latest. If there is none, the error is ErrNoDisk.
	Find(ctx context.Context, q Query) (Found, error)
}

// Writes are those of a container to a disk of its own.
type Writes struct {
	Dir  string // where they are kept, however the mount ends; the caller removes it
	Room int64  // bytes that files may take, beside those of the image; 0: no bound
}

// A Mounter mounts disks, and takes them down. Calls for one directory come one
// after the other, those for several may come at once.
type Mounter interface {
	// Mount returns when the file system of d is mounted at dir, read-only, by
	// this call or one before, also one by an earlier process. dir exists. If d is not
	// in its store any more, the error is ErrNoDisk.
	Mount(ctx context.Context, d Disk, dir string) error
	// MountWritable is Mount of a disk that can be written, by one container, and whose
	// writes are kept in w.Dir.
	MountWritable(ctx context.Context, d Disk, dir string, w Writes) error
	// AttachWritable is MountWritable without a mount: link, in place of a directory, becomes a
	// symbolic link to the block device that is returned. Room is a bound of what the
	// device takes: who writes more gets I/O errors.
	AttachWritable(ctx context.Context, d Disk, link string, w Writes) (device string, err error)
	// Detach takes down what AttachWritable has attached at link.
	Detach(ctx context.Context, link string) error
	// Unmount takes down what Mount or MountWritable has mounted at dir; nothing is no error. If
	// it is in use, it stays as it is, which is an error.
	Unmount(ctx context.Context, dir string) error
}
