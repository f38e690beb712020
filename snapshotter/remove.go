//go:build linux

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/opencontainers/go-digest"
)

// Remove implements [snapshots.Snapshotter]. It is quick: files and disks go by
// Cleanup.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	return s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, _, err := storage.Remove(ctx, key)
		return err
	})
}

// removedPrefix begins the names of directories that nobody can find any more.
const removedPrefix = "removed-"

// Cleanup implements [snapshots.Cleaner]: it takes down the disks, and removes the
// files, of snapshots that were removed. A disk that is in use nevertheless, by a
// container that was not stopped properly, is left for the next time.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	down, err := s.unmountWrites(ctx)
	if err != nil {
		return err
	}
	var gone []string
	err = s.meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) { // nobody makes directories meanwhile
		gone, err = s.setAside(ctx, down)
		return err
	})
	errs := []error{err, s.cleanDisks(ctx)}
	for _, dir := range gone {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// unknown returns the names of directories that are no snapshot's. It is called in a transaction.
func (s *Snapshotter) unknown(ctx context.Context) (names []string, err error) {
	known, err := ids(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.dir(""))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, ok := known[e.Name()]; !ok {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// setAside renames the directories of snapshots that are gone, as their IDs may be
// given again, and returns what they are now, with those that were left over before. Those
// with a disk of their own that is not down stay: one may have gone since the others were taken down.
func (s *Snapshotter) setAside(ctx context.Context, down map[string]bool) (gone []string, err error) {
	names, err := s.unknown(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		owns, err := s.ownsDisk(name)
		if err != nil {
			return gone, err
		}
		if owns && !down[name] {
			continue
		}
		dir := s.dir(name)
		if !strings.HasPrefix(name, removedPrefix) {
			aside := s.dir(fmt.Sprintf("%s%016x", removedPrefix, rand.Uint64()))
			if err := os.Rename(dir, aside); err != nil {
				return gone, err
			}
			dir = aside
		}
		gone = append(gone, dir)
	}
	return gone, nil
}

// cleanDisks takes down the disks that no snapshot needs.
func (s *Snapshotter) cleanDisks(ctx context.Context) error {
	if s.cfg.Mounter == nil {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(s.cfg.Root, disksDir))
	if err != nil {
		return err
	}
	needed, err := s.needed(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		chain := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if checkDigest(chain) != nil || needed[chain] {
			continue
		}
		errs = append(errs, s.cleanDisk(ctx, chain))
	}
	return errors.Join(errs...)
}

func (s *Snapshotter) cleanDisk(ctx context.Context, chain digest.Digest) error {
	unlock, err := s.disks.lock(ctx, string(chain))
	if err != nil {
		return err
	}
	defer unlock()
	if s.isFresh(chain) {
		return nil
	}
	needed, err := s.needed(ctx) // by now, when nobody can begin to
	if err != nil || needed[chain] {
		return err
	}
	dir := s.diskDir(chain)
	if err := s.cfg.Mounter.Unmount(ctx, dir); err != nil {
		s.log.Warn("a disk that no snapshot needs is still mounted", "chain", chain, "where", dir, "err", err)
		return nil
	}
	s.log.Info("a disk was taken down", "chain", chain)
	return os.Remove(dir)
}

// needed returns the chain IDs of the disks that layers are read from.
func (s *Snapshotter) needed(ctx context.Context) (map[digest.Digest]bool, error) {
	var known map[string]string
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		known, err = ids(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	needed := make(map[digest.Digest]bool)
	for id := range known {
		r, err := readRecord(s.dir(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		if r.Disk != nil {
			needed[r.Chain] = true
		}
	}
	return needed, nil
}
