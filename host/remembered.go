package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

// Profiles that the origin would not take are files of the state folder, for starts on
// this host. profileSuffix is of their names; maxProfiles bounds how many there are, the
// newest.
const (
	profileSuffix = ".profile"
	maxProfiles   = 256
)

// profileName is the name of the file with the profile of an image and workload.
func profileName(image origin.Digest, workload string) string {
	sum := sha256.Sum256(append(image[:], workload...))
	return hex.EncodeToString(sum[:]) + profileSuffix
}

// readProfile returns the profile that was kept of an image and workload; nil if there
// is none.
func (f *folder) readProfile(image origin.Digest, workload string) (*profile.Profile, error) {
	if f == nil {
		return nil, nil
	}
	file, err := os.Open(filepath.Join(f.path, profileName(image, workload)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	b, err := io.ReadAll(io.LimitReader(file, profile.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	p, err := profile.Parse(b)
	if err == nil && (p.Image != image || p.Workload != workload) {
		err = profile.ErrMismatch
	}
	if err != nil {
		return nil, fmt.Errorf("profile file %s: %w", file.Name(), err)
	}
	return p, nil
}

// writeProfile keeps p in place of what was kept of its image and workload, and drops
// the oldest of the others if there are too many.
func (f *folder) writeProfile(p *profile.Profile) error {
	b, err := p.AppendBinary(nil)
	if err == nil {
		err = f.replace(profileName(p.Image, p.Workload), b)
	}
	if err != nil {
		return fmt.Errorf("keep profile of %v: %w", p.Image, err)
	}
	list, err := f.files("", profileSuffix)
	for err == nil && len(list) > maxProfiles {
		oldest, at := 0, time.Time{}
		for i, path := range list {
			info, statErr := os.Stat(path)
			if statErr == nil && (at.IsZero() || info.ModTime().Before(at)) {
				oldest, at = i, info.ModTime()
			}
		}
		err = os.Remove(list[oldest])
		list = append(list[:oldest], list[oldest+1:]...)
	}
	return err
}

// dropProfile removes what was kept of an image and workload: the origin has it now.
func (f *folder) dropProfile(image origin.Digest, workload string) error {
	return os.Remove(filepath.Join(f.path, profileName(image, workload)))
}
