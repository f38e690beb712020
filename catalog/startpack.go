package catalog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// MaxPackParts bounds the parts of a start pack; a pointer has room for them.
const MaxPackParts = 48

// PacksPrefix begins the names of all pointers to start packs.
const PacksPrefix = "packs/"

// ErrPack is returned (wrapped) for a pointer that leads to no start pack. It is advice,
// like the profile of which it was made: who gets this goes on without.
var ErrPack = errors.New("damaged start pack")

// PackPrefix begins the names of the pointers to an image's start packs.
func PackPrefix(image origin.Digest) string {
	return PacksPrefix + hex.EncodeToString(image[:]) + "/"
}

// PackKey is the pointer to the start pack of an image, by its block map, and a workload.
func PackKey(image origin.Digest, workload string) string {
	return PacksPrefix + strings.TrimPrefix(ProfileKey(image, workload), ProfilesPrefix)
}

// ParsePackKey is the inverse of PackKey; it accepts what ParseProfileKey accepts.
func ParsePackKey(key string) (image origin.Digest, workload string, err error) {
	rest, ok := strings.CutPrefix(key, PacksPrefix)
	if !ok {
		return origin.Digest{}, "", fmt.Errorf("pointer %.80q: it names no start pack", key)
	}
	return ParseProfileKey(ProfilesPrefix + rest)
}

// ParsePack reads the value of a pointer to a start pack: the digests of its 1 to
// MaxPackParts parts, in order, a line each and none twice. Another value is ErrPack.
func ParsePack(value []byte) ([]origin.Digest, error) {
	parts, err := parseDigests(value, MaxPackParts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPack, err)
	}
	return parts, nil
}

// StartPack returns the objects that are the parts of an image's start pack. None is
// chunk.ErrNotFound; a pointer that is not what it should be, ErrPack.
func StartPack(ctx context.Context, s origin.Pointers, image origin.Digest, workload string) ([]origin.Digest, error) {
	parts, _, err := startPack(ctx, s, PackKey(image, workload))
	if err != nil {
		return nil, describePack(err, image, workload)
	}
	return parts, nil
}

// startPack also returns what SwapPointer takes as the pointer's value.
func startPack(ctx context.Context, s origin.Pointers, key string) (parts []origin.Digest, old []byte, err error) {
	old, err = s.GetPointer(ctx, key)
	switch {
	case errors.Is(err, origin.ErrCorrupt):
		return nil, origin.Damaged(), fmt.Errorf("%w: %w", ErrPack, err)
	case err != nil:
		return nil, nil, err
	}
	parts, err = ParsePack(old)
	return parts, old, err
}

func describePack(err error, image origin.Digest, workload string) error {
	return fmt.Errorf("start pack of image %v, workload %q: %w", image, workload, err)
}

// PutStartPack stores the parts of a start pack, and has it take the place of the one that
// the image and workload have had, whose parts are removed unless other start packs have them. No parts remove it. If others
// put one meanwhile, the error is origin.ErrConflict, and theirs stays.
func PutStartPack(ctx context.Context, s Store, image origin.Digest, workload string, parts [][]byte) error {
	err := putStartPack(ctx, s, image, workload, parts)
	if err != nil {
		return describePack(err, image, workload)
	}
	return nil
}

func putStartPack(ctx context.Context, s Store, image origin.Digest, workload string, parts [][]byte) error {
	if len(parts) > MaxPackParts {
		return fmt.Errorf("%d parts: at most %d", len(parts), MaxPackParts)
	}
	key := PackKey(image, workload)
	before, old, err := startPack(ctx, s, key)
	switch {
	case errors.Is(err, chunk.ErrNotFound) && len(parts) == 0:
		return err
	case err != nil && !errors.Is(err, chunk.ErrNotFound) && !errors.Is(err, ErrPack):
		return err
	}
	var now []origin.Digest
	for _, b := range parts {
		d, err := s.PutObject(ctx, b)
		if err != nil {
			return err
		}
		now = append(now, d)
	}
	if err := s.SwapPointer(ctx, key, old, profilesValue(now)); err != nil {
		return err
	}
	removeParts(ctx, s, before)
	return nil
}

// maxOtherPacks is how many start packs are looked at before parts of one are removed.
const maxOtherPacks = 256

var errManyPacks = errors.New("too many start packs to look at")

// removeParts removes parts that no start pack has: workloads, or images, that read the same
// have the same. Those of which that is not found out go with their generation.
func removeParts(ctx context.Context, s Store, parts []origin.Digest) {
	if len(parts) == 0 {
		return
	}
	used := make(map[origin.Digest]bool)
	n := 0
	err := s.ListPointers(ctx, PacksPrefix, func(key string) error {
		if n++; n > maxOtherPacks {
			return errManyPacks
		}
		others, _, err := startPack(ctx, s, key)
		if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, ErrPack) {
			return nil
		}
		for _, d := range others {
			used[d] = true
		}
		return err
	})
	if err != nil {
		return
	}
	for _, d := range parts {
		if !used[d] {
			_ = s.RemoveObject(ctx, d)
		}
	}
}

// RemoveStartPack removes the start pack of an image and workload. None is
// chunk.ErrNotFound.
func RemoveStartPack(ctx context.Context, s Store, image origin.Digest, workload string) error {
	return PutStartPack(ctx, s, image, workload, nil)
}

// carryPacks makes the start packs of an image in src ones of dst as well, unless that has
// one of the workload. Where src cannot list, only that of the empty workload is found.
func carryPacks(ctx context.Context, src, dst Store, image origin.Digest) error {
	n := 0
	err := src.ListPointers(ctx, PackPrefix(image), func(key string) error {
		if n++; n > MaxWorkloads {
			return errManyWorkloads
		}
		return carryPack(ctx, src, dst, key)
	})
	if errors.Is(err, origin.ErrNoListing) {
		err = carryPack(ctx, src, dst, PackKey(image, ""))
	}
	if errors.Is(err, errManyWorkloads) {
		return nil
	}
	return err
}

func carryPack(ctx context.Context, src, dst Store, key string) error {
	parts, value, err := startPack(ctx, src, key)
	if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, ErrPack) {
		return nil // what is damaged stays behind
	}
	if err != nil {
		return err
	}
	_, _, err = startPack(ctx, dst, key)
	if err == nil || errors.Is(err, ErrPack) {
		return nil
	}
	if !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	for _, d := range parts {
		b, err := src.GetObject(ctx, d, origin.MaxObjectBytes)
		if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, origin.ErrCorrupt) {
			return nil // it is worth nothing without
		}
		if err == nil {
			_, err = dst.PutObject(ctx, b)
		}
		if err != nil {
			return err
		}
	}
	err = dst.SwapPointer(ctx, key, nil, value)
	if errors.Is(err, origin.ErrConflict) {
		return nil // somebody puts one there
	}
	return err
}
