//go:build linux

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/archive"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/flatten/source"
)

// A layer is a committed snapshot below another.
type layer struct {
	id  string
	dir string
}

// stack returns a committed snapshot and those below it, the topmost first; none for
// "". It is called in a transaction.
func (s *Snapshotter) stack(ctx context.Context, name string) (list []layer, err error) {
	for name != "" {
		id, info, _, err := storage.GetInfo(ctx, name)
		if err != nil {
			return nil, err
		}
		if info.Kind != snapshots.KindCommitted {
			return nil, fmt.Errorf("parent %q is not committed: %w", name, errdefs.ErrInvalidArgument)
		}
		list = append(list, layer{id, s.dir(id)})
		name = info.Parent
	}
	return list, nil
}

// lowers returns the directories that show stack, whose topmost layer is the first.
// Where there is a disk, it has all that lies below it.
func (s *Snapshotter) lowers(ctx context.Context, stack []layer) (dirs []string, err error) {
	for i, l := range stack {
		dir, flat, err := s.lower(ctx, l, stack[i+1:])
		if err != nil {
			return nil, err
		}
		if dirs = append(dirs, dir); flat {
			break
		}
	}
	return dirs, nil
}

// lower returns the directory that shows a layer: alone, or flat, with all below.
func (s *Snapshotter) lower(ctx context.Context, l layer, below []layer) (dir string, flat bool, err error) {
	files := filepath.Join(l.dir, filesDir)
	if n, err := readWritesNote(l.dir); n != nil || err != nil {
		if err == nil {
			_, err = s.mountWrites(ctx, l.id, n)
		}
		return files, true, err
	}
	if ok, err := exists(files); ok || err != nil {
		return files, false, err
	}
	unlock, err := s.fills.lock(ctx, l.id)
	if err != nil {
		return "", false, err
	}
	defer unlock()
	if ok, err := exists(files); ok || err != nil { // by whoever had the lock
		return files, false, err
	}
	r, err := readRecord(l.dir)
	if err != nil {
		return "", false, fmt.Errorf("layer %s has neither files nor a note: %w", l.id, err)
	}
	dir, err = s.disk(ctx, l, r)
	if err == nil {
		return dir, true, nil
	}
	if !errors.Is(err, ErrNoDisk) {
		return "", false, fmt.Errorf("layer %s: %w: %w", r.Chain, err, errdefs.ErrUnavailable)
	}
	if fillErr := s.fill(ctx, l, r, below); fillErr != nil {
		return "", false, fmt.Errorf("layer %s: %w; and it cannot be downloaded: %w: %w", r.Chain, err, fillErr, errdefs.ErrUnavailable)
	}
	return files, false, nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// disk has the disk of just that layer and all below it mounted. The caller has the
// layer's lock. Without one the error is ErrNoDisk: also if a placeholder's could not
// be looked for, or not be mounted, as its files may be had elsewhere.
func (s *Snapshotter) disk(ctx context.Context, l layer, r *record) (string, error) {
	if s.cfg.Finder == nil {
		return "", fmt.Errorf("disks are turned off: %w", ErrNoDisk)
	}
	if r.Disk != nil {
		dir, err := s.withDisk(ctx, r.Chain, *r.Disk, nil)
		if !errors.Is(err, ErrNoDisk) {
			return dir, err
		}
	}
	f, err := s.find(ctx, Query{Reference: r.Reference, Chain: r.Chain})
	if err == nil {
		var dir string
		dir, err = s.withDisk(ctx, r.Chain, f.Disk, func() error {
			next := *r
			next.Disk = &f.Disk
			return next.write(l.dir)
		})
		if err == nil {
			s.log.Info("a placeholder has a disk now", "layer", r.Chain, "disk", f.Digest, "store", f.Store)
			return dir, nil
		}
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return "", fmt.Errorf("%w: %w", err, ErrNoDisk)
}

// newFiles is where a layer's files are unpacked, before they are whole.
const newFiles = filesDir + ".new"

// fill downloads a layer, after those below it that have to be. The caller has its
// lock.
func (s *Snapshotter) fill(ctx context.Context, l layer, r *record, below []layer) error {
	if r.Reference == "" {
		return errors.New("nobody said where")
	}
	lower, err := s.lowers(ctx, below)
	if err != nil {
		return err
	}
	s.log.Info("a layer is downloaded after all", "image", r.Reference, "manifest", r.Manifest, "layer", r.Chain)
	made := filepath.Join(l.dir, newFiles)
	if err := os.RemoveAll(made); err != nil { // of a process that was killed
		return err
	}
	if err := makeAs(made, 0o755); err != nil {
		return err
	}
	next := *r
	next.Usage, err = s.unpack(ctx, r, made, lower)
	if err == nil {
		err = next.write(l.dir)
	}
	if err == nil {
		err = os.Rename(made, filepath.Join(l.dir, filesDir))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(made))
	}
	return syncDir(l.dir)
}

// unpack downloads the layer of r into dir, over the directories lower, and
// returns what it takes, when that would outlive a power cut.
func (s *Snapshotter) unpack(ctx context.Context, r *record, dir string, lower []string) (snapshots.Usage, error) {
	ref, err := name.ParseReference(r.Reference)
	if err != nil {
		return snapshots.Usage{}, err
	}
	img, err := source.Open(ctx, []string{ref.Context().Digest(string(r.Manifest)).Name()}, s.cfg.Source)
	if err != nil {
		return snapshots.Usage{}, err
	}
	defer func() { _ = img.Close() }()
	found, err := layerOf(img, r.Chain)
	if err != nil {
		return snapshots.Usage{}, err
	}
	var opts []archive.ApplyOpt
	if len(lower) > 0 { // else nothing can be hidden
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(lower))
	}
	err = found.Archive(ctx, func(archived io.Reader) error {
		_, err := archive.Apply(ctx, dir, archived, opts...)
		return err
	})
	if err == nil {
		err = syncFiles(dir)
	}
	if err != nil {
		return snapshots.Usage{}, err
	}
	du, err := continuity.DiskUsage(ctx, dir)
	return snapshots.Usage(du), err
}

// layerOf returns the layer of an image that has that chain ID with all below it.
// So what is unpacked is what its name says, whatever the registry answers.
func layerOf(img *source.Image, chain digest.Digest) (*source.Layer, error) {
	ids := make([]digest.Digest, len(img.Layers))
	for i, l := range img.Layers {
		ids[i] = digest.Digest(l.DiffID.String())
	}
	if i := indexOf(ids, chain); i >= 0 {
		return img.Layers[i], nil
	}
	return nil, fmt.Errorf("image %s has no such layer", img.Digest)
}

// syncFiles makes what lies in the file system of dir outlive a power cut.
func syncFiles(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err = unix.Syncfs(int(d.Fd())); err != nil {
		err = &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return errors.Join(err, d.Close())
}
