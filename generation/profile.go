package generation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

// A Profiled is what an origin has of a workload of an image.
type Profiled struct {
	Workload   string
	Versions   []origin.Digest // newest first
	Generation origin.GenerationID
}

// Profile returns the newest profile of an image, by its block map, and a workload,
// out of the newest generation that has a sound one; see catalog.LoadProfile. It
// needs no block map, so it can be asked for together with that. A generation that was
// made within five seconds may not be known; see States. None is
// chunk.ErrNotFound; if there are only damaged ones, the error is
// catalog.ErrProfile.
func (v *View) Profile(ctx context.Context, image origin.Digest, workload string) (*profile.Profile, error) {
	return v.eachProfile(ctx, func(s origin.Store) (*profile.Profile, error) {
		return catalog.LoadProfile(ctx, s, image, workload)
	})
}

// ReadProfile returns one version of a profile; see catalog.ReadProfile.
func (v *View) ReadProfile(ctx context.Context, image origin.Digest, workload string, version origin.Digest) (*profile.Profile, error) {
	return v.eachProfile(ctx, func(s origin.Store) (*profile.Profile, error) {
		return catalog.ReadProfile(ctx, s, image, workload, version)
	})
}

// eachProfile calls load with one generation after the other, the newest first,
// until it finds a sound profile.
func (v *View) eachProfile(ctx context.Context, load func(s origin.Store) (*profile.Profile, error)) (p *profile.Profile, err error) {
	_, err = v.retryFrom(ctx, v.States, func(l List) error {
		var damaged error
		missing := chunk.ErrNotFound
		for _, g := range l.Readable() {
			var err error
			p, err = load(v.origin.Generation(g))
			switch {
			case errors.Is(err, chunk.ErrNotFound):
				missing = err
			case errors.Is(err, catalog.ErrProfile):
				damaged = err
			default:
				return err
			}
		}
		if damaged != nil {
			return damaged
		}
		return missing
	})
	return p, err
}

// Profiles returns which workloads of an image have profiles, by name, each as the
// newest generation has it. Damaged pointers are left out, and an error that is
// catalog.ErrProfile beside the others.
func (v *View) Profiles(ctx context.Context, image origin.Digest) ([]Profiled, error) {
	found := map[string]Profiled{}
	var damaged error
	_, err := v.retry(ctx, func(l List) error {
		damaged = nil
		clear(found)
		for _, g := range l.Readable() {
			err := catalog.Profiles(ctx, v.origin.Generation(g), image, func(workload string, versions []origin.Digest) error {
				if _, newer := found[workload]; !newer {
					found[workload] = Profiled{workload, versions, g}
				}
				return nil
			})
			switch {
			case errors.Is(err, catalog.ErrProfile):
				damaged = errors.Join(damaged, err)
			case err != nil:
				return err
			}
		}
		if len(found) == 0 {
			return chunk.ErrNotFound
		}
		return nil
	})
	if errors.Is(err, chunk.ErrNotFound) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("profiles of image %v: %w", image, err)
	}
	var list []Profiled
	for _, workload := range slices.Sorted(maps.Keys(found)) {
		list = append(list, found[workload])
	}
	return list, damaged
}

// AddProfile merges p into what the newest generation that has its image remembers
// of the workload, and returns the new version; see catalog.AddProfile. An image
// that none has is chunk.ErrNotFound. A start that is added while the image is
// carried to another generation may be remembered in the old one alone, and go with
// it: the next start takes its place.
func AddProfile(ctx context.Context, o origin.Origin, p *profile.Profile) (origin.Digest, error) {
	l, err := Load(ctx, o)
	if err != nil {
		return origin.Digest{}, err
	}
	for _, g := range l.Readable() {
		s := o.Generation(g)
		_, err := s.GetObject(ctx, p.Image, catalog.MaxBlockMapBytes)
		if err == nil {
			return catalog.AddProfile(ctx, s, p)
		}
		if !errors.Is(err, chunk.ErrNotFound) {
			return origin.Digest{}, err
		}
	}
	return origin.Digest{}, fmt.Errorf("profile of image %v: no generation has it: %w", p.Image, chunk.ErrNotFound)
}

// RemoveProfile removes the profile of an image and workload from all generations,
// the oldest first, so that one which is being carried forward is gone where it
// comes from. One that none has is chunk.ErrNotFound.
func RemoveProfile(ctx context.Context, o origin.Origin, image origin.Digest, workload string) error {
	l, err := Load(ctx, o)
	if err != nil {
		return err
	}
	missing := fmt.Errorf("profile of image %v, workload %q: %w", image, workload, chunk.ErrNotFound)
	for _, g := range slices.Backward(l.newestFirst(StateDeleted)) {
		err := catalog.RemoveProfile(ctx, o.Generation(g), image, workload)
		if err == nil {
			missing = nil
		} else if !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
	}
	return missing
}

// StartPack returns the objects that are the parts of the start pack of an image and
// workload, in their order, and the store that has them: that of the newest generation
// with one. None is chunk.ErrNotFound, a damaged one catalog.ErrPack.
func (v *View) StartPack(ctx context.Context, image origin.Digest, workload string) (parts []origin.Digest, at origin.Store, err error) {
	_, err = v.retryFrom(ctx, v.States, func(l List) error {
		for _, g := range l.Readable() {
			at = v.origin.Generation(g)
			if parts, err = catalog.StartPack(ctx, at, image, workload); !errors.Is(err, chunk.ErrNotFound) {
				return err
			}
		}
		return fmt.Errorf("start pack of image %v, workload %q: %w", image, workload, chunk.ErrNotFound)
	})
	return parts, at, err
}

// PutStartPack puts a start pack beside an image in the newest generation that has that;
// see catalog.PutStartPack. An image that none has is chunk.ErrNotFound.
func PutStartPack(ctx context.Context, o origin.Origin, image origin.Digest, workload string, parts [][]byte) error {
	l, err := Load(ctx, o)
	if err != nil {
		return err
	}
	for _, g := range l.Readable() {
		s := o.Generation(g)
		_, err := s.GetObject(ctx, image, catalog.MaxBlockMapBytes)
		if err == nil {
			return catalog.PutStartPack(ctx, s, image, workload, parts)
		}
		if !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
	}
	return fmt.Errorf("start pack of image %v: no generation has it: %w", image, chunk.ErrNotFound)
}
