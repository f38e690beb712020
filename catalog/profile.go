package catalog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

// Bounds of what is remembered of an image.
const (
	MaxProfiles  = 16  // versions of a profile that a pointer leads to
	MaxWorkloads = 256 // workloads that Profiles tells of
)

// ErrProfile is returned (wrapped) for a pointer that leads to no profile of its
// image and workload. A profile is advice: who gets this goes on without.
var ErrProfile = errors.New("damaged profile")

// ProfilesPrefix begins the names of all pointers to profiles.
const ProfilesPrefix = "profiles/"

// ProfilePrefix begins the names of the pointers to an image's profiles.
func ProfilePrefix(image origin.Digest) string {
	return ProfilesPrefix + hex.EncodeToString(image[:]) + "/"
}

// noWorkload stands in a pointer's name for the empty workload: an escape that no
// other has.
const noWorkload = "%"

// ProfileKey is the pointer to the profiles of an image, by its block map, and a
// workload.
func ProfileKey(image origin.Digest, workload string) string {
	if workload == "" {
		return ProfilePrefix(image) + noWorkload
	}
	var b strings.Builder
	b.WriteString(ProfilePrefix(image))
	for i := range len(workload) {
		if c := workload[i]; plain(c) && (c != '.' || i > 0) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

// plain reports whether a byte of a workload stands for itself.
func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._-+:@", c) >= 0
}

// ParseProfileKey is the inverse of ProfileKey; it accepts no other spelling, and
// no workload that profile.CheckWorkload refuses.
func ParseProfileKey(key string) (image origin.Digest, workload string, err error) {
	digits, name, _ := strings.Cut(strings.TrimPrefix(key, ProfilesPrefix), "/")
	image, err = origin.ParseDigest("sha256:" + digits)
	if name != noWorkload && err == nil {
		workload, err = unescape(name)
	}
	if err == nil {
		err = profile.CheckWorkload(workload)
	}
	if err == nil && ProfileKey(image, workload) != key {
		err = errors.New("not written as it should be")
	}
	if err != nil {
		return origin.Digest{}, "", fmt.Errorf("pointer %.80q: it names no profile: %w", key, err)
	}
	return image, workload, nil
}

func unescape(s string) (string, error) {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		c, err := hex.DecodeString(s[i+1 : min(i+3, len(s))])
		if err != nil || len(c) != 1 {
			return "", fmt.Errorf("workload %.40q: bad escape", s)
		}
		b = append(b, c[0])
		i += 2
	}
	return string(b), nil
}

// profilesValue is what a pointer to these versions holds: nil, if there are none.
func profilesValue(versions []origin.Digest) []byte {
	var b []byte
	for _, d := range versions {
		b = append(b, Value(d)...)
	}
	return b
}

// ParseProfiles reads the value of a pointer to profiles: the digests of 1 to
// MaxProfiles versions, the newest first, a line each and none twice. Another value
// is ErrProfile.
func ParseProfiles(value []byte) ([]origin.Digest, error) {
	versions, err := parseDigests(value, MaxProfiles)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	return versions, nil
}

// parseDigests reads 1 to most digests, a line each and none twice.
func parseDigests(value []byte, most int) ([]origin.Digest, error) {
	lines := strings.Split(string(value[:min(len(value), origin.MaxPointerBytes)]), "\n")
	n := len(lines) - 1
	if n < 1 || n > most {
		return nil, fmt.Errorf("a list of %d digests, want 1 to %d", n, most)
	}
	list := make([]origin.Digest, n)
	for i := range list {
		d, err := origin.ParseDigest(lines[i])
		if err == nil && slices.Contains(list[:i], d) {
			err = errors.New("it is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("digest %d: %w", i, err)
		}
		list[i] = d
	}
	if string(profilesValue(list)) != string(value) {
		return nil, errors.New("something follows the list")
	}
	return list, nil
}

// profileVersions returns the versions that a pointer leads to, and what
// SwapPointer takes as its value, which is nil if there is none. Of a damaged one
// there are no versions, and the error is ErrProfile.
func profileVersions(ctx context.Context, s origin.Pointers, key string) (versions []origin.Digest, old []byte, err error) {
	old, err = s.GetPointer(ctx, key)
	switch {
	case errors.Is(err, origin.ErrCorrupt):
		return nil, origin.Damaged(), fmt.Errorf("%w: %w", ErrProfile, err)
	case err != nil:
		return nil, nil, err
	}
	if versions, err = ParseProfiles(old); err != nil {
		err = fmt.Errorf("pointer %s: %w", key, err)
	}
	return versions, old, err
}

// ProfileVersions returns the versions of a profile, the newest first; none is
// chunk.ErrNotFound, a damaged list ErrProfile.
func ProfileVersions(ctx context.Context, s origin.Pointers, image origin.Digest, workload string) ([]origin.Digest, error) {
	versions, _, err := profileVersions(ctx, s, ProfileKey(image, workload))
	if err != nil {
		return nil, describe(err, image, workload)
	}
	return versions, nil
}

// ReadProfile reads and checks one version of a profile. What is not there, or no
// profile of that image and workload, is ErrProfile.
func ReadProfile(ctx context.Context, s origin.Objects, image origin.Digest, workload string, version origin.Digest) (*profile.Profile, error) {
	p, err := readProfile(ctx, s, image, workload, version)
	if err != nil {
		return nil, describe(err, image, workload)
	}
	return p, nil
}

func readProfile(ctx context.Context, s origin.Objects, image origin.Digest, workload string, version origin.Digest) (*profile.Profile, error) {
	b, err := s.GetObject(ctx, version, profile.MaxBytes)
	switch {
	case errors.Is(err, chunk.ErrNotFound):
		return nil, fmt.Errorf("%w: no object %v", ErrProfile, version) // the pointer says that there is one
	case errors.Is(err, origin.ErrCorrupt):
		return nil, fmt.Errorf("%w: %w", ErrProfile, err)
	case err != nil:
		return nil, err
	}
	p, err := profile.Parse(b)
	if err == nil && (p.Image != image || p.Workload != workload) {
		err = fmt.Errorf("it is of %v, workload %q: %w", p.Image, p.Workload, profile.ErrMismatch)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: object %v: %w", ErrProfile, version, err)
	}
	return p, nil
}

func describe(err error, image origin.Digest, workload string) error {
	return fmt.Errorf("profile of image %v, workload %q: %w", image, workload, err)
}

// LoadProfile returns the newest profile of an image, by its block map, and a
// workload. None is chunk.ErrNotFound; a pointer or object that is not what it
// should be, ErrProfile. It reads one pointer and one object of at most
// profile.MaxBytes. Whether the profile fits the block map is for the caller to
// see (profile.Profile.Fits).
func LoadProfile(ctx context.Context, s Store, image origin.Digest, workload string) (*profile.Profile, error) {
	versions, err := ProfileVersions(ctx, s, image, workload)
	if err != nil {
		return nil, err
	}
	return ReadProfile(ctx, s, image, workload, versions[0])
}

// How AddProfile goes about it. Many hosts may add at once; a start that comes to
// nothing is one of many.
const (
	addAttempts = 8
	addPause    = 20 * time.Millisecond // at most, before the second attempt; doubled each time
	addLook     = 3                     // newest versions that are looked at for one to merge into
)

// AddProfile merges p into the newest profile of its image and workload that can be
// read, stores the result as the newest version and returns its digest. There need
// be no profile yet, and a damaged one is replaced. The version that gives way for
// that is removed. If others change the pointer all the while, the error is
// origin.ErrConflict.
func AddProfile(ctx context.Context, s Store, p *profile.Profile) (origin.Digest, error) {
	for i := 0; ; i++ {
		d, err := addProfile(ctx, s, p)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, origin.ErrConflict) || i == addAttempts-1 {
			return origin.Digest{}, describe(err, p.Image, p.Workload)
		}
		select {
		case <-time.After(rand.N(addPause << i)):
		case <-ctx.Done():
			return origin.Digest{}, describe(context.Cause(ctx), p.Image, p.Workload)
		}
	}
}

func addProfile(ctx context.Context, s Store, p *profile.Profile) (origin.Digest, error) {
	key := ProfileKey(p.Image, p.Workload)
	versions, old, err := profileVersions(ctx, s, key)
	if err != nil && !errors.Is(err, chunk.ErrNotFound) && !errors.Is(err, ErrProfile) {
		return origin.Digest{}, err
	}
	merged := []*profile.Profile{p}
	for _, v := range versions[:min(len(versions), addLook)] {
		if base, err := readProfile(ctx, s, p.Image, p.Workload, v); err == nil {
			merged = []*profile.Profile{base, p}
			break
		}
	}
	m, err := profile.Merge(merged...)
	if err != nil {
		return origin.Digest{}, err
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		return origin.Digest{}, err
	}
	d, err := s.PutObject(ctx, b)
	if err != nil {
		return origin.Digest{}, err
	}
	next := append([]origin.Digest{d}, slices.DeleteFunc(slices.Clone(versions), func(v origin.Digest) bool { return v == d })...)
	kept := next[:min(len(next), MaxProfiles)]
	if err := s.SwapPointer(ctx, key, old, profilesValue(kept)); err != nil {
		return origin.Digest{}, err
	}
	for _, gone := range next[len(kept):] {
		_ = s.RemoveObject(ctx, gone) // else it goes with its generation
	}
	return d, nil
}

// Profiles calls fn for each workload of an image that has profiles, in the order
// of the pointers' names, with their versions, the newest first, until fn fails;
// that error is returned. Pointers that are not what they should be, and those
// beyond MaxWorkloads, are passed over, and reported as ErrProfile when fn has had
// the others.
func Profiles(ctx context.Context, s origin.Pointers, image origin.Digest, fn func(workload string, versions []origin.Digest) error) error {
	var damaged []error
	n := 0
	err := s.ListPointers(ctx, ProfilePrefix(image), func(key string) error {
		if n++; n > MaxWorkloads {
			return errManyWorkloads
		}
		_, workload, err := ParseProfileKey(key)
		if err != nil {
			damaged = append(damaged, fmt.Errorf("%w: %w", ErrProfile, err))
			return nil
		}
		versions, _, err := profileVersions(ctx, s, key)
		switch {
		case errors.Is(err, chunk.ErrNotFound): // removed meanwhile
			return nil
		case errors.Is(err, ErrProfile):
			damaged = append(damaged, err)
			return nil
		case err != nil:
			return err
		}
		return fn(workload, versions)
	})
	if errors.Is(err, errManyWorkloads) {
		damaged, err = append(damaged, err), nil
	}
	if err != nil {
		return err
	}
	return errors.Join(damaged...)
}

var errManyWorkloads = fmt.Errorf("%w: an image with more than %d workloads", ErrProfile, MaxWorkloads)

// CarryProfiles makes the profiles of an image in src ones of dst as well, all
// versions that can be read, and its start packs. What dst has stays, unless its newest version is one
// of src's. Where src cannot list, only the profile of the empty workload is found.
func CarryProfiles(ctx context.Context, src, dst Store, image origin.Digest) error {
	carry := func(workload string, versions []origin.Digest) error {
		if err := carryProfile(ctx, src, dst, image, workload, versions); err != nil {
			return describe(err, image, workload)
		}
		return nil
	}
	err := Profiles(ctx, src, image, carry)
	if errors.Is(err, origin.ErrNoListing) {
		var versions []origin.Digest
		if versions, err = ProfileVersions(ctx, src, image, ""); err == nil {
			err = carry("", versions)
		}
	}
	if err != nil && !errors.Is(err, chunk.ErrNotFound) && !errors.Is(err, ErrProfile) {
		return err // what is damaged stays behind
	}
	return carryPacks(ctx, src, dst, image)
}

func carryProfile(ctx context.Context, src, dst Store, image origin.Digest, workload string, versions []origin.Digest) error {
	key := ProfileKey(image, workload)
	there, old, err := profileVersions(ctx, dst, key)
	if err != nil && !errors.Is(err, chunk.ErrNotFound) && !errors.Is(err, ErrProfile) {
		return err
	}
	if len(there) > 0 && (there[0] == versions[0] || !slices.Contains(versions, there[0])) {
		return nil
	}
	var brought []origin.Digest
	for _, v := range versions {
		p, err := readProfile(ctx, src, image, workload, v)
		if errors.Is(err, ErrProfile) {
			continue // or removed meanwhile
		}
		var b []byte
		if err == nil {
			b, err = p.AppendBinary(nil)
		}
		if err == nil {
			_, err = dst.PutObject(ctx, b)
		}
		if err != nil {
			return err
		}
		brought = append(brought, v)
	}
	if len(brought) == 0 {
		return nil
	}
	err = dst.SwapPointer(ctx, key, old, profilesValue(brought))
	if errors.Is(err, origin.ErrConflict) {
		return nil // somebody adds to it there
	}
	return err
}

// DropProfile removes one version of a profile, and the pointer with the last. One
// that the pointer does not lead to is no error.
func DropProfile(ctx context.Context, s Store, image origin.Digest, workload string, version origin.Digest) error {
	return dropProfiles(ctx, s, image, workload, func(d origin.Digest) bool { return d == version })
}

// RemoveProfile removes the profile of an image and workload, all versions, and its start
// pack. None is chunk.ErrNotFound.
func RemoveProfile(ctx context.Context, s Store, image origin.Digest, workload string) error {
	if err := RemoveStartPack(ctx, s, image, workload); err != nil && !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	return dropProfiles(ctx, s, image, workload, func(origin.Digest) bool { return true })
}

// dropProfiles removes the versions that drop chooses; of a damaged pointer, all.
func dropProfiles(ctx context.Context, s Store, image origin.Digest, workload string, drop func(origin.Digest) bool) error {
	key := ProfileKey(image, workload)
	for {
		versions, old, err := profileVersions(ctx, s, key)
		kept := slices.DeleteFunc(slices.Clone(versions), drop)
		if err == nil || errors.Is(err, ErrProfile) {
			err = s.SwapPointer(ctx, key, old, profilesValue(kept))
		}
		switch {
		case errors.Is(err, origin.ErrConflict) && ctx.Err() == nil:
			continue
		case err != nil:
			return describe(err, image, workload)
		}
		for _, v := range versions {
			if !slices.Contains(kept, v) {
				_ = s.RemoveObject(ctx, v) // else it goes with its generation
			}
		}
		return nil
	}
}
