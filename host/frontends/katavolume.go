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
	"strings"
	"sync"
	"syscall"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
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

	offered sync.Map // the volumes' folders, of this process
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

// What our notes say of all volumes.
const (
	kataType = "block"
	kataFS   = "ext4"
)

// Offer implements [host.Frontend]: o.Where is the volume's path, as it is in a pod's mounts.
func (k *KataVolume) Offer(ctx context.Context, o host.Offer) (host.Offered, error) {
	if err := o.AbsoluteDir(); err != nil {
		return nil, err
	}
	path := o.Where
	folder := filepath.Join(k.Volumes, base64.URLEncoding.EncodeToString([]byte(path)))
	if _, there := k.offered.LoadOrStore(folder, nil); there {
		return nil, host.SpecErrorf("attach: %s is a direct volume already", path)
	}
	v, err := k.offer(ctx, o, folder)
	if err != nil {
		k.offered.Delete(folder)
		return nil, err
	}
	return v, nil
}

// offer is Offer of a volume whose folder no other has in this process.
func (k *KataVolume) offer(ctx context.Context, o host.Offer, folder string) (*offeredVolume, error) {
	path := o.Where
	if !o.Again {
		if _, err := os.Lstat(filepath.Join(folder, kataNote)); err == nil {
			if !k.abandoned(folder) {
				return nil, host.SpecErrorf("attach: %s is a direct volume already; if no agent has it, remove %s", path, folder)
			}
		} else if !errors.Is(err, fs.ErrNotExist) { // a name may be too long for a folder, as it is encoded
			return nil, host.SpecErrorf("attach: the direct volume %s cannot be: %w", path, err)
		}
	}
	_, writable := o.Device.(blockdev.Writer)
	o.Where = k.link(o.ID)
	device, err := k.Block.Offer(ctx, o)
	if err != nil {
		return nil, err
	}
	v := &offeredVolume{Offered: device, frontend: k, folder: folder, path: path}
	if err := v.note(writable); err != nil {
		return nil, errors.Join(fmt.Errorf("offer the direct volume %s: %w", path, err), v.Detach(ctx, true))
	}
	return v, nil
}

// link is where an attachment's device is linked to.
func (k *KataVolume) link(id string) string { return filepath.Join(k.Runtime, "volume-"+id) }

// abandoned reports whether a note is of a disk of ours that nobody serves any more, as of an agent that has lost its
// state folder, and that nobody has: no sandbox, which Kata notes beside it, and no mount, in whatever mount namespace. Its device
// and what showed its file are cleared away then.
func (k *KataVolume) abandoned(folder string) bool {
	if list, err := os.ReadDir(folder); err != nil || len(list) != 1 {
		return false
	}
	text, err := os.ReadFile(filepath.Join(folder, kataNote))
	var m kataMount
	if err != nil || json.Unmarshal(text, &m) != nil || m.VolumeType != kataType || m.FSType != kataFS {
		return false
	}
	file, err := loopmount.BackingFile(m.Device)
	if err != nil || file == "" {
		return err == nil // the device has gone
	}
	hidden := filepath.Dir(file)
	id, ours := strings.CutPrefix(hidden, filepath.Join(k.Runtime, HiddenPrefix))
	if !ours || strings.Contains(id, "/") {
		return false
	}
	if _, err := os.ReadDir(hidden); !errors.Is(err, syscall.ENOTCONN) || loopmount.Clear(m.Device) != nil {
		return false
	}
	if file, err = loopmount.BackingFile(m.Device); err != nil || file != "" {
		return false // somebody has it open: it goes when they close it
	}
	clearDead(hidden)
	_, _ = os.Remove(hidden), os.Remove(k.link(id))
	return true
}

// An offeredVolume is a device with its note.
type offeredVolume struct {
	host.Offered
	frontend     *KataVolume
	folder, path string
}

// note writes the note, whole, in place of one that named another device.
func (o *offeredVolume) note(writable bool) error {
	m := kataMount{VolumeType: kataType, Device: o.Offered.Address(), FSType: kataFS, Options: []string{"ro"}}
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
func (o *offeredVolume) Err() error { return errors.Join(o.Offered.Err(), o.forget()) }

// Detach implements [host.Offered]. A volume is in use while its device is.
func (o *offeredVolume) Detach(ctx context.Context, force bool) error {
	if err := o.Offered.Detach(ctx, force); err != nil {
		return err
	}
	return o.forget()
}

// forget takes the note away; then the path is free.
func (o *offeredVolume) forget() error {
	err := os.RemoveAll(o.folder)
	o.frontend.offered.Delete(o.folder)
	return err
}
