//go:build linux

package snapshotter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	continuity "github.com/containerd/continuity/fs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Writable says what containers write to.
type Writable string

// What containers can write to.
const (
	// WritableOverlay is overlayfs' upper layer, on the file system of Config.Root. It has no
	// quota.
	WritableOverlay Writable = "overlay"
	// WritableDisk is a disk of the container's own, which is the image's until it is written:
	// ext4, with a quota. Containers of images that were unpacked get WritableOverlay.
	WritableDisk Writable = "disk"
	// WritableBlock is the same as a block device, for runtimes that give it to a virtual machine:
	// the container's only mount is ext4 on that device. Its quota is met as I/O errors.
	WritableBlock Writable = "block"
)

// known reports whether it is one of them.
func (w Writable) known() bool { return w == WritableOverlay || w.isDisk() }

func (w Writable) isDisk() bool { return w == WritableDisk || w == WritableBlock }

// LabelWritable is the label of a snapshot, or annotation of a pod, that says what that
// container writes to. One with snapshots.LabelSnapshotMaxSize, its quota in bytes, writes to a disk.
const LabelWritable = "containerd.io/snapshot/rivulet.writable"

// Names in a snapshot's directory.
const (
	writesFile = "disk"   // note of the disk that a container writes to
	deviceLink = "device" // leads to the block device, if it is one
	writesDir  = "writes" // what it has written, as the agent keeps it
)

const (
	writesVersion = 1
	maxWritesNote = 64 << 10 // bytes
)

// A writesNote says that a container writes to a disk of its own, mounted at filesDir or attached
// at deviceLink.
type writesNote struct {
	Version int           `json:"version"`
	Chain   digest.Digest `json:"chain"` // ID of the layers that it began as
	Disk    Disk          `json:"disk"`  // that has them
	Room    int64         `json:"room"`  // bytes that files may take; 0: no bound
	Block   bool          `json:"block,omitempty"`
}

func parseWritesNote(b []byte) (*writesNote, error) {
	n := new(writesNote)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err := d.Decode(n)
	if err == nil && (n.Version != writesVersion || n.Disk.Store == "" || n.Room < 0) {
		err = fmt.Errorf("version %d, store %.80q, room %d", n.Version, n.Disk.Store, n.Room)
	}
	if err == nil {
		err = errors.Join(checkDigest(n.Disk.Digest), checkDigest(n.Chain))
	}
	if err != nil {
		return nil, fmt.Errorf("note of a container's disk: %w", err)
	}
	return n, nil
}

// readWritesNote returns the note in a snapshot's directory, nil if there is none.
func readWritesNote(dir string) (*writesNote, error) {
	f, err := os.Open(filepath.Join(dir, writesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxWritesNote+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(b) > maxWritesNote {
		return nil, fmt.Errorf("%s: note of a container's disk: more than %d bytes", dir, maxWritesNote)
	}
	return parseWritesNote(b)
}

func (n *writesNote) write(dir string) error {
	n.Version = writesVersion
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return writeWhole(dir, writesFile, b)
}

// wishOf returns what the labels of a new snapshot, or else the configuration, say that it is
// written to, and the quota. Labels are a pod's, too: where the configuration has a quota, they can only
// lower it.
func (s *Snapshotter) wishOf(labels map[string]string) (w Writable, room int64) {
	w, room = s.cfg.Writable, s.cfg.Room
	bound := w.isDisk() && room > 0
	if n, err := strconv.ParseInt(labels[snapshots.LabelSnapshotMaxSize], 10, 64); err == nil && n > 0 {
		if room == 0 || n < room {
			room = n
		}
		if !w.isDisk() { // anything else is to be ignored
			w = WritableDisk
		}
	}
	if chosen := Writable(labels[LabelWritable]); chosen.known() && (chosen.isDisk() || !bound) {
		w = chosen
	}
	return w, room
}

// ownDisk returns the note for a new container over stack, nil if it is to have no disk of
// its own, or cannot have one.
func (s *Snapshotter) ownDisk(key string, kind snapshots.Kind, labels map[string]string, stack []layer) (*writesNote, error) {
	w, room := s.wishOf(labels)
	if kind != snapshots.KindActive || !w.isDisk() || len(stack) == 0 || labels[snapshots.LabelSnapshotRef] != "" {
		return nil, nil
	}
	if ok, err := exists(filepath.Join(stack[0].dir, filesDir)); ok || err != nil {
		s.log.Warn("a container has no disk of its own, and no quota", "container", key, "why", "what it begins as is no disk")
		return nil, err
	}
	r, err := readRecord(stack[0].dir)
	if err != nil || r.Disk == nil || s.cfg.Mounter == nil {
		return nil, err
	}
	return &writesNote{Chain: r.Chain, Disk: *r.Disk, Room: room, Block: w == WritableBlock}, nil
}

// mountWrites has the disk of a container mounted where its files are, or attached as the
// device that is returned.
func (s *Snapshotter) mountWrites(ctx context.Context, id string, n *writesNote) (device string, err error) {
	unlock, err := s.fills.lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	dir := s.dir(id)
	w := Writes{filepath.Join(dir, writesDir), n.Room}
	if n.Block {
		device, err = s.cfg.Mounter.AttachWritable(ctx, n.Disk, filepath.Join(dir, deviceLink), w)
	} else {
		err = s.cfg.Mounter.MountWritable(ctx, n.Disk, filepath.Join(dir, filesDir), w)
	}
	if err != nil {
		return "", fmt.Errorf("a disk to write to, %s of %s: %w", n.Disk.Digest, n.Disk.Store, err)
	}
	return device, nil
}

// ownMounts is what a container with a disk of its own has.
func (s *Snapshotter) ownMounts(ctx context.Context, kind snapshots.Kind, id string, n *writesNote, ids idMap) ([]mount.Mount, error) {
	device, err := s.mountWrites(ctx, id, n)
	if err != nil {
		return nil, err
	}
	if n.Block {
		return []mount.Mount{{Type: "ext4", Source: device, Options: append(slices.Clone(ids.options), "rw")}}, nil
	}
	return s.mounts(kind, id, nil, ids), nil
}

// writesUsage is what a container has written to its disk: the space that this takes, and
// how many files there are more than the image has.
func (s *Snapshotter) writesUsage(ctx context.Context, id string, n *writesNote) (snapshots.Usage, error) {
	du, err := continuity.DiskUsage(ctx, filepath.Join(s.dir(id), writesDir))
	if err != nil {
		return snapshots.Usage{}, err
	}
	usage := snapshots.Usage{Size: du.Size}
	if n.Block { // whose files are seen by its machine alone
		return usage, nil
	}
	var now, before unix.Statfs_t // while both are mounted
	err = errors.Join(unix.Statfs(filepath.Join(s.dir(id), filesDir), &now), unix.Statfs(s.diskDir(n.Chain), &before))
	if err == nil && now.Files == before.Files { // else one of them shows what lies below the mount
		usage.Inodes = max(0, int64(before.Ffree)-int64(now.Ffree))
	}
	return usage, nil
}

// unmountWrites takes down the disks of containers that are gone, and what they wrote. It
// returns the names of those that are down.
func (s *Snapshotter) unmountWrites(ctx context.Context) (down map[string]bool, err error) {
	var gone []string
	err = s.meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) { // nobody makes directories meanwhile
		gone, err = s.unknown(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	down = make(map[string]bool)
	for _, name := range gone {
		owns, err := s.ownsDisk(name)
		if err != nil {
			return nil, err
		}
		if !owns {
			continue
		}
		if err := s.unmountWritesOf(ctx, name); err != nil {
			s.log.Warn("the disk of a container that is gone is still mounted", "where", s.dir(name), "err", err)
			continue
		}
		down[name] = true
	}
	return down, nil
}

// ownsDisk reports whether there is a note of a disk, whatever it says.
func (s *Snapshotter) ownsDisk(name string) (bool, error) {
	return exists(filepath.Join(s.dir(name), writesFile))
}

// unmountWritesOf takes down the disk of one container that is gone.
func (s *Snapshotter) unmountWritesOf(ctx context.Context, name string) error {
	unlock, err := s.fills.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	var again bool // as IDs are given again if a transaction was rolled back
	err = s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		known, err := ids(ctx)
		_, again = known[name]
		return err
	})
	if err == nil && again {
		err = errors.New("its ID is that of another one by now")
	}
	if err != nil {
		return err
	}
	dir := s.dir(name)
	n, err := readWritesNote(dir)
	switch {
	case err != nil || n == nil:
		return err
	case s.cfg.Mounter == nil:
		return errors.New("disks are turned off")
	case n.Block:
		return s.cfg.Mounter.Detach(ctx, filepath.Join(dir, deviceLink))
	}
	return s.cfg.Mounter.Unmount(ctx, filepath.Join(dir, filesDir))
}
