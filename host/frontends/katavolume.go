package frontends

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/host"
)

// KataVolumes is where Kata Containers looks for direct volumes.
const KataVolumes = "/run/kata-containers/shared/direct-volumes"

// KataVolume gives a disk to Kata Containers as a direct volume (host.Frontend): a device, and Kata's note of
// it, by which a pod that has the volume's path among its mounts gets the device in its virtual machine. It needs root.
type KataVolume struct {
	Block
	// Volumes is Kata's folder.
	Volumes string
}

var _ host.Frontend = (*KataVolume)(nil)

// A kataMount is Kata's note, as `kata-runtime direct-volume add` takes it.
type kataMount struct {
	VolumeType string   `json:"volume-type"`
	Device     string   `json:"device"`
	FSType     string   `json:"fstype"`
	Options    []string `json:"options,omitempty"`
}

// kataNote is its file, the only one in the volume's folder: Kata takes any other for that of a sandbox.
const kataNote = "mountInfo.json"

// Offer implements [host.Frontend]: o.Where is the volume's path, as it is in a pod's mounts.
func (k *KataVolume) Offer(ctx context.Context, o host.Offer) (host.Offered, error) {
	if err := o.AbsoluteDir(); err != nil {
		return nil, err
	}
	path := o.Where
	folder := filepath.Join(k.Volumes, base64.URLEncoding.EncodeToString([]byte(path)))
	if !o.Again {
		if _, err := os.Lstat(filepath.Join(folder, kataNote)); err == nil {
			return nil, host.SpecErrorf("attach: %s is a direct volume already; if no agent has it, remove %s", path, folder)
		} else if !errors.Is(err, fs.ErrNotExist) { // a name may be too long for a folder, as it is encoded
			return nil, host.SpecErrorf("attach: the direct volume %s cannot be: %w", path, err)
		}
	}
	_, writable := o.Device.(blockdev.Writer)
	o.Where = filepath.Join(k.Runtime, "volume-"+o.ID)
	device, err := k.Block.Offer(ctx, o)
	if err != nil {
		return nil, err
	}
	v := &offeredVolume{Offered: device, folder: folder, path: path}
	if err := v.note(writable); err != nil {
		return nil, errors.Join(fmt.Errorf("offer the direct volume %s: %w", path, err), v.Detach(ctx, true))
	}
	return v, nil
}

// An offeredVolume is a device with its note.
type offeredVolume struct {
	host.Offered
	folder, path string
}

// note writes the note, whole, in place of one that named another device.
func (o *offeredVolume) note(writable bool) error {
	m := kataMount{VolumeType: "block", Device: o.Offered.Address(), FSType: "ext4", Options: []string{"ro"}}
	if writable {
		m.Options = []string{"discard"} // what is deleted gives its space back
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if there, err := os.ReadFile(filepath.Join(o.folder, kataNote)); err == nil && bytes.Equal(there, text) {
		return nil // of before a restart: a full disk takes no machine's volume away
	}
	if err := os.MkdirAll(o.folder, 0o700); err != nil {
		return err
	}
	next := o.folder + ".new"
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(o.folder, kataNote))
}

// Address implements [host.Offered].
func (o *offeredVolume) Address() string { return o.path }

// Err implements [host.Offered].
func (o *offeredVolume) Err() error { return errors.Join(o.Offered.Err(), os.RemoveAll(o.folder)) }

// Detach implements [host.Offered]. A volume is in use while its device is.
func (o *offeredVolume) Detach(ctx context.Context, force bool) error {
	if err := o.Offered.Detach(ctx, force); err != nil {
		return err
	}
	return os.RemoveAll(o.folder)
}
