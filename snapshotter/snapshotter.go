//go:build linux

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/rivuletfs/rivulet/flatten/source"
)

// DefaultPatience is the usual Config.Patience.
const DefaultPatience = 20 * time.Second

// A Config is what a Snapshotter works with. Root must be set.
type Config struct {
	// Root is the folder of all that is kept, made if need be. It is on a file
	// system that can hold overlayfs' upper layers, and its path has no ":", "," or "\".
	Root string
	// Finder and Mounter lead to disks; nil: every image is unpacked.
	Finder  Finder
	Mounter Mounter
	// Source says how layers are downloaded that were left out and are
	// needed after all.
	Source source.Options
	// Writable and Room are what containers write to, and the quota of those that have
	// a disk, unless their labels say otherwise: WritableOverlay if empty; 0 is no quota.
	Writable Writable
	Room     int64
	// RemapIDs says that containerd was told of the capability "remap-ids": containers in a user
	// namespace of their own have their files mapped by their mounts.
	RemapIDs bool
	// Patience bounds finding a disk, and again mounting it, before the image
	// is unpacked instead; 0: DefaultPatience.
	Patience time.Duration
	Logger   *slog.Logger // nil: nobody
}

// A Snapshotter implements containerd's snapshots.Snapshotter and snapshots.Cleaner.
// All methods may be called at any time, from any goroutine; none leaves a goroutine
// behind.
type Snapshotter struct {
	cfg     Config
	log     *slog.Logger
	meta    *storage.MetaStore
	options []string // of every overlay

	disks locks // by chain ID
	fills locks // by the ID of a snapshot

	mu      sync.Mutex // guards what follows
	answers map[Query]answer
	fresh   map[digest.Digest]time.Time // disks that were mounted for a pull that goes on, until when
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// Names below Config.Root.
const (
	metadataFile = "metadata.db"
	snapshotsDir = "snapshots"
	disksDir     = "disks"
	filesDir     = "fs"
	workDir      = "work"
)

// openTime is for how long to wait for another process that has the metadata open, and
// is about to end.
const openTime = 10 * time.Second

// New opens what is kept in cfg.Root. The caller closes the snapshotter. One process
// at a time can have it open.
func New(cfg Config) (*Snapshotter, error) {
	if (cfg.Finder == nil) != (cfg.Mounter == nil) {
		return nil, errors.New("open snapshotter: finder and mounter go together")
	}
	root, err := filepath.Abs(cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter: %w", err)
	}
	if strings.ContainsAny(root, ":,\\") {
		return nil, fmt.Errorf("open snapshotter: root %s: has a \":\", \",\" or \"\\\", which stand between the options of a mount", root)
	}
	cfg.Root = root
	if cfg.Patience == 0 {
		cfg.Patience = DefaultPatience
	}
	s := &Snapshotter{cfg: cfg, log: cfg.Logger, answers: make(map[Query]answer), fresh: make(map[digest.Digest]time.Time)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []string{"", snapshotsDir, disksDir} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return nil, fmt.Errorf("open snapshotter: %w", err)
		}
	}
	if ok, err := continuity.SupportsDType(root); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("open snapshotter: root %s: its file system cannot hold an overlay's upper layer (d_type)", root), err)
	}
	s.meta, err = storage.NewMetaStore(filepath.Join(root, metadataFile), func(o *bolt.Options) error {
		o.Timeout = openTime
		return nil
	})
	if err == nil { // it opens the file when it is used
		err = s.meta.WithTransaction(context.Background(), false, func(context.Context) error { return nil })
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = fmt.Errorf("another process has %s open: %w", root, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open snapshotter: %w", err)
	}
	// An index would tie upper layers to the very mount below, and not let them
	// be used over another one of the same disk.
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		s.options = append(s.options, "index=off")
	}
	return s, nil
}

// Close closes the metadata. Disks stay mounted, as containers go on.
func (s *Snapshotter) Close() error { return s.meta.Close() }

// dir is where a snapshot's files lie.
func (s *Snapshotter) dir(id string) string { return filepath.Join(s.cfg.Root, snapshotsDir, id) }

// diskDir is where the disk with that chain ID is mounted.
func (s *Snapshotter) diskDir(chain digest.Digest) string {
	return filepath.Join(s.cfg.Root, disksDir, chain.Encoded())
}

// Stat implements [snapshots.Snapshotter].
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update implements [snapshots.Snapshotter].
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	err = s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		updated, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return updated, err
}

// Walk implements [snapshots.Snapshotter].
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		return walk(ctx, fn, filters...)
	})
}

// walk is storage.WalkInfo, also before the first snapshot was made: then there
// are none.
func walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	called := false
	err := storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
		called = true
		return fn(ctx, info)
	}, filters...)
	if !called && errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// ids returns the IDs of all snapshots. It is called in a transaction.
func ids(ctx context.Context) (map[string]string, error) {
	m, err := storage.IDMap(ctx)
	if errdefs.IsNotFound(err) { // the first was not made yet
		return nil, nil
	}
	return m, err
}

// Usage implements [snapshots.Snapshotter]. It is what is kept here: of a container,
// what it wrote; of a layer, its files, and of one that is read from a disk nothing,
// as the host cache has the disk's chunks, and bounds and counts them.
func (s *Snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	var id string
	var info snapshots.Info
	err = s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return usage, err
	}
	if info.Kind == snapshots.KindActive {
		return s.diskUsage(ctx, id)
	}
	if n, err := readWritesNote(s.dir(id)); n != nil || err != nil {
		return usage, err // as it was when it was committed
	}
	r, err := readRecord(s.dir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return usage, nil
	}
	if err != nil {
		return usage, fmt.Errorf("usage of %q: %w", key, err)
	}
	return r.Usage, nil
}

// diskUsage is what was written to a snapshot.
func (s *Snapshotter) diskUsage(ctx context.Context, id string) (snapshots.Usage, error) {
	if n, err := readWritesNote(s.dir(id)); n != nil || err != nil {
		if err != nil {
			return snapshots.Usage{}, err
		}
		return s.writesUsage(ctx, id, n)
	}
	du, err := continuity.DiskUsage(ctx, filepath.Join(s.dir(id), filesDir))
	return snapshots.Usage(du), err
}

// Commit implements [snapshots.Snapshotter].
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	var id string
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, _, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return err
	}
	n, err := readWritesNote(s.dir(id))
	if err == nil && n != nil && n.Block {
		err = fmt.Errorf("it is a block device, whose files are seen by its machine alone: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("commit %q: %w", key, err)
	}
	usage, err := s.diskUsage(ctx, id) // outside, as it may take long
	if err != nil {
		return fmt.Errorf("commit %q: %w", key, err)
	}
	return s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CommitActive(ctx, key, name, usage, opts...)
		return err
	})
}

// Mounts implements [snapshots.Snapshotter].
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var id string
	var info snapshots.Info
	var stack []layer
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, info, _, err = storage.GetInfo(ctx, key)
		if err == nil && info.Kind == snapshots.KindCommitted {
			err = fmt.Errorf("snapshot %q is committed, and has no mounts: %w", key, errdefs.ErrFailedPrecondition)
		}
		if err == nil {
			stack, err = s.stack(ctx, info.Parent)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	ids, err := s.idMapOf(info.Labels)
	if err != nil {
		return nil, fmt.Errorf("mounts of %q: %w", key, err)
	}
	note, err := readWritesNote(s.dir(id))
	if err == nil && note != nil {
		return s.ownMounts(ctx, info.Kind, id, note, ids)
	}
	var lower []string
	if err == nil {
		lower, err = s.lowers(ctx, stack)
	}
	if err != nil {
		return nil, fmt.Errorf("mounts of %q: %w", key, err)
	}
	return s.mounts(info.Kind, id, lower, ids), nil
}

// mounts is what a snapshot is over its lower directories, the topmost first.
func (s *Snapshotter) mounts(kind snapshots.Kind, id string, lower []string, ids idMap) []mount.Mount {
	options := slices.Clone(ids.options)
	bind := func(dir, mode string) []mount.Mount {
		return []mount.Mount{{Type: "bind", Source: dir, Options: append(options, mode, "rbind")}}
	}
	files := filepath.Join(s.dir(id), filesDir)
	switch {
	case kind == snapshots.KindActive && len(lower) == 0:
		return bind(files, "rw")
	case kind == snapshots.KindActive:
		options = append(options, "workdir="+filepath.Join(s.dir(id), workDir), "upperdir="+files)
	case len(lower) == 0:
		return bind(files, "ro")
	case len(lower) == 1:
		return bind(lower[0], "ro")
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, s.options...)}}
}
