//go:build linux

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// Prepare implements [snapshots.Snapshotter]. A layer that a pull prepares is
// committed at once if it need not be downloaded: then the error is
// errdefs.ErrAlreadyExists. Prepare takes as long as the layers need that have to be
// downloaded after all.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	labels, err := labelsOf(opts)
	if err != nil {
		return nil, err
	}
	if ref := labels[snapshots.LabelSnapshotRef]; ref != "" && s.cfg.Finder != nil {
		p := pullOf(labels)
		err := s.commitLazily(ctx, key, parent, p, opts)
		if err == nil {
			return nil, fmt.Errorf("snapshot %q: need not be downloaded: %w", ref, errdefs.ErrAlreadyExists)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.log.Info("a layer is unpacked", "image", p.reference, "manifest", p.manifest, "layer", ref, "why", err)
	}
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// View implements [snapshots.Snapshotter].
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

// create makes a snapshot with files of its own.
func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	var stack []layer
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		stack, err = s.stack(ctx, parent)
		return err
	})
	if err != nil {
		return nil, err
	}
	lower, err := s.lowers(ctx, stack)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", key, err)
	}
	labels, err := labelsOf(opts)
	if err != nil {
		return nil, err
	}
	note, err := s.ownDisk(key, kind, labels, stack)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", key, err)
	}
	if note != nil {
		lower = nil
	}
	ids, err := s.idMapOf(labels)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w: %w", key, err, errdefs.ErrInvalidArgument)
	}
	var made storage.Snapshot
	err = s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		made, err = storage.CreateSnapshot(ctx, kind, key, parent, opts...)
		if err != nil {
			return err
		}
		err := s.makeDir(made.ID, kind, lower, ids)
		if err == nil && note != nil {
			err = note.write(s.dir(made.ID))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if note != nil {
		mounts, err := s.ownMounts(ctx, kind, made.ID, note, ids)
		if err != nil {
			err = errors.Join(fmt.Errorf("prepare %q: %w", key, err), s.Remove(context.WithoutCancel(ctx), key))
		}
		return mounts, err
	}
	return s.mounts(kind, made.ID, lower, ids), nil
}

// makeDir makes the directory of a new snapshot, within the transaction that makes
// it. What is there of that name is of one that was rolled back.
func (s *Snapshotter) makeDir(id string, kind snapshots.Kind, lower []string, ids idMap) error {
	dir := s.dir(id)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	files := filepath.Join(dir, filesDir)
	if err := makeAs(files, 0o755); err != nil {
		return err
	}
	if ids.options != nil { // an upper layer is not mapped, or nothing in it would be the container's
		if err := os.Lchown(files, ids.uid, ids.gid); err != nil {
			return err
		}
	} else if len(lower) > 0 { // the root of an overlay is its uppermost directory
		var st syscall.Stat_t
		if err := syscall.Stat(lower[0], &st); err != nil {
			return &os.PathError{Op: "stat", Path: lower[0], Err: err}
		}
		if err := os.Lchown(files, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if kind != snapshots.KindActive {
		return nil
	}
	return makeAs(filepath.Join(dir, workDir), 0o711)
}

// makeAs makes a directory with that mode, whatever the process's mask is.
func makeAs(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, mode); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// A pull is what the labels of a layer say of the image that is pulled. They come
// from whoever pulls, and from the image.
type pull struct {
	name      string        // by which it will look for the layer
	chain     digest.Digest // ID of the layers up to this one; "": the name does not say
	reference string
	manifest  digest.Digest // "": nobody says
}

// Labels that containerd's client, the CRI plugin and the transfer service give
// the layers of an image.
const (
	labelReference = "containerd.io/snapshot/cri.image-ref"
	labelManifest  = "containerd.io/snapshot/cri.manifest-digest"
	// labelRemote says to people that a layer has not been downloaded.
	labelRemote = "containerd.io/snapshot/remote"
)

func pullOf(labels map[string]string) pull {
	p := pull{name: labels[snapshots.LabelSnapshotRef], reference: labels[labelReference], manifest: digest.Digest(labels[labelManifest])}
	_, pinned, _ := strings.Cut(p.reference, "@")
	if checkDigest(digest.Digest(p.name)) == nil {
		p.chain = digest.Digest(p.name)
	} else {
		// BuildKit's own name. Then no chain ID tells a wrong manifest, so that it is not taken from a label which
		// BuildKit copies from the image: the reference is what somebody asked for.
		p.manifest = ""
	}
	if p.manifest == "" {
		p.manifest = digest.Digest(pinned) // "", or an index's, if nobody says it
	}
	return p
}

func labelsOf(opts []snapshots.Opt) (map[string]string, error) {
	var info snapshots.Info
	for _, o := range opts {
		if err := o(&info); err != nil {
			return nil, err
		}
	}
	return info.Labels, nil
}

// commitLazily commits a layer without its files. The error says why the layer is
// to be unpacked instead.
func (s *Snapshotter) commitLazily(ctx context.Context, key, parent string, p pull, opts []snapshots.Opt) error {
	known, below, err := s.lookBelow(ctx, p.name, parent)
	if err != nil || known {
		return err
	}
	f, index, err := s.look(ctx, p, below)
	if err != nil {
		return err
	}
	p.chain = chainOf(f.Layers[:index+1])
	if err := fits(f.Layers, index, below); err != nil {
		return err
	}
	r := &record{Chain: p.chain}
	if _, err := name.ParseReference(p.reference); err == nil && p.manifest != "" && len(p.reference) <= maxReference {
		r.Reference, r.Manifest = p.reference, p.manifest
	}
	whole := chainOf(f.Layers)
	top := whole == p.chain
	if top {
		r.Disk = &f.Disk
	} else if r.Reference == "" {
		return errors.New("nobody says where the layer could be downloaded if it were needed")
	}
	_, err = s.withDisk(ctx, whole, f.Disk, func() error {
		if !top {
			s.keepFresh(whole)
			return nil
		}
		err := s.commitRecord(ctx, p.name, key, parent, r, opts)
		if err == nil {
			s.isNeeded(whole)
		}
		return err
	})
	if err != nil {
		return err
	}
	if top {
		s.log.Info("an image is read from its disk", "image", p.reference, "manifest", p.manifest, "disk", f.Digest, "store", f.Store)
		return nil
	}
	return s.commitRecord(ctx, p.name, key, parent, r, opts)
}

// maxReference bounds an image's reference, in bytes: a label's.
const maxReference = 4096

// lookBelow reports whether there is a layer already, committed by a pull into another
// namespace, without its files; and the chain ID of its parent, "" without one.
func (s *Snapshotter) lookBelow(ctx context.Context, target, parent string) (known bool, below digest.Digest, err error) {
	err = s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		if parent != "" {
			id, info, _, err := storage.GetInfo(ctx, parent)
			if err != nil {
				return err
			}
			below = digest.Digest(info.Labels[snapshots.LabelSnapshotRef])
			if checkDigest(below) != nil { // a name that does not say it; the note does
				r, err := readRecord(s.dir(id))
				if err != nil {
					return fmt.Errorf("its parent %q was unpacked: %w", parent, err)
				}
				below = r.Chain
			}
		}
		name, err := twin(ctx, target, parent)
		if err != nil || name == "" {
			return err
		}
		id, _, _, err := storage.GetInfo(ctx, name)
		if err != nil {
			return err
		}
		_, err = readRecord(s.dir(id))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		known = err == nil
		return err
	})
	return known, below, err
}

// twin returns the committed snapshot that pulls call target, with that parent, "" if there is
// none. It is called in a transaction.
func twin(ctx context.Context, target, parent string) (name string, err error) {
	filter := fmt.Sprintf("labels.%q==%q", snapshots.LabelSnapshotRef, target)
	err = walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted && info.Parent == parent {
			name = info.Name
		}
		return nil
	}, filter)
	return name, err
}

// fits reports, by a nil error, whether a layer is the one at index of an image and
// its parent the one below. containerd says so; whoever gave the labels might not
// have.
func fits(layers []digest.Digest, index int, below digest.Digest) error {
	var want digest.Digest
	if index > 0 {
		want = chainOf(layers[:index])
	}
	if below != want {
		return fmt.Errorf("its parent has the chain ID %q, not %q", below, want)
	}
	return nil
}

// commitRecord commits a layer that has nothing but its note.
func (s *Snapshotter) commitRecord(ctx context.Context, target, key, parent string, r *record, opts []snapshots.Opt) error {
	return s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		// One of these at most, or containerd could not tell which was meant.
		if name, err := twin(ctx, target, parent); err != nil || name != "" {
			return err
		}
		made, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent, opts...)
		if err != nil {
			return err
		}
		dir := s.dir(made.ID)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := errors.Join(r.write(dir), syncDir(filepath.Dir(dir))); err != nil {
			return err
		}
		name := strings.Join([]string{"rivulet", made.ID, string(r.Chain)}, "/")
		remote := func(info *snapshots.Info) error {
			info.Labels = maps.Clone(info.Labels) // the caller's
			info.Labels[labelRemote] = "rivulet"
			return nil
		}
		_, err = storage.CommitActive(ctx, key, name, snapshots.Usage{}, append(opts[:len(opts):len(opts)], remote)...)
		return err
	})
}
