//go:build linux

package snapshotter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
)

const (
	recordFile    = "layer"
	recordVersion = 1
	maxRecord     = 64 << 10 // bytes
)

// A record is the note of a layer that came without its files. It is not among the
// snapshot's labels, because those can be given by whoever made the image.
type record struct {
	Version int           `json:"version"`
	Chain   digest.Digest `json:"chain"` // ID of the layers up to this one
	// Disk is what the layer is read from; nil: it is a placeholder.
	Disk *Disk `json:"disk,omitempty"`
	// Reference and Manifest say where the layer can be downloaded; none: nowhere.
	Reference string        `json:"reference,omitempty"`
	Manifest  digest.Digest `json:"manifest,omitempty"`
	// Usage is that of the files, once there are any.
	Usage snapshots.Usage `json:"usage,omitzero"`
}

// parseRecord reads what encode returned.
func parseRecord(b []byte) (*record, error) {
	r := new(record)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("note of a layer: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("note of a layer: version %d, not %d", r.Version, recordVersion)
	}
	return r, r.check()
}

func (r *record) check() error {
	err := checkDigest(r.Chain)
	if r.Disk != nil {
		err = errors.Join(err, checkDigest(r.Disk.Digest))
		if r.Disk.Store == "" {
			err = errors.Join(err, errors.New("a disk in no store"))
		}
	}
	if (r.Reference == "") != (r.Manifest == "") {
		err = errors.Join(err, errors.New("reference and manifest go together"))
	}
	if r.Manifest != "" {
		err = errors.Join(err, checkDigest(r.Manifest))
	}
	if r.Usage.Size < 0 || r.Usage.Inodes < 0 {
		err = errors.Join(err, errors.New("less than nothing is used"))
	}
	if err != nil {
		return fmt.Errorf("note of a layer: %w", err)
	}
	return nil
}

// checkDigest accepts SHA-256 alone: digests become names of directories, and
// lead to images.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.80q: %w", string(d), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %.80q: only sha256 is supported", string(d))
	}
	return nil
}

func (r *record) encode() ([]byte, error) {
	r.Version = recordVersion
	if err := r.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(r)
	if err == nil && len(b) > maxRecord {
		err = fmt.Errorf("note of a layer: %d bytes: at most %d are supported", len(b), maxRecord)
	}
	return b, err
}

// readRecord reads the note in a snapshot's directory; the error may be
// fs.ErrNotExist.
func readRecord(dir string) (*record, error) {
	f, err := os.Open(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(b) > maxRecord {
		return nil, fmt.Errorf("%s: note of a layer: more than %d bytes", dir, maxRecord)
	}
	return parseRecord(b)
}

// write puts the note into a snapshot's directory, whole, in place of one that is
// there, and returns when it would outlive a power cut.
func (r *record) write(dir string) error {
	b, err := r.encode()
	if err != nil {
		return err
	}
	return writeWhole(dir, recordFile, b)
}

// writeWhole makes b the content of a file in dir, and returns when that would outlive a
// power cut.
func writeWhole(dir, name string, b []byte) error {
	f, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
