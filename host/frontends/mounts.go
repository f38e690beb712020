package frontends

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/rivuletfs/rivulet/frontend/kernelnbd"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
)

// Mounts mounts disks in one of two ways (host.Frontend). What is mounted stays with the way in which it was.
type Mounts struct {
	Loop *Mount
	NBD  *NBDMount
	// ByNBD chooses NBD for what is mounted anew.
	ByNBD bool
}

var _ host.Frontend = (*Mounts)(nil)

// Offer implements [host.Frontend].
func (m *Mounts) Offer(ctx context.Context, o host.Offer) (host.Offered, error) {
	if m.byNBD(&o) {
		return m.NBD.Offer(ctx, o)
	}
	return m.Loop.Offer(ctx, o)
}

// byNBD tells the way of an offer: that of before, of which there is a state, or a device.
func (m *Mounts) byNBD(o *host.Offer) bool {
	if !o.Again {
		return m.ByNBD
	}
	if o.State != nil {
		var st nbdMountState
		return json.Unmarshal(o.State, &st) == nil && st.Boot != ""
	}
	_, err := kernelnbd.Find(NBDIdentity + o.ID)
	return err == nil || m.ByNBD
}

// Begin implements [host.Frontend].
func (m *Mounts) Begin() error { return errors.Join(m.Loop.Begin(), m.NBD.Begin()) }

// Release implements [host.Frontend].
func (m *Mounts) Release(ctx context.Context) ([]keep.Descriptor, error) {
	loop, err := m.Loop.Release(ctx)
	nbd, nbdErr := m.NBD.Release(ctx)
	return append(loop, nbd...), errors.Join(err, nbdErr)
}
