package frontends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/kernelnbd"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// kernelPrefix and the attachment's ID name the socket of the kernel's client.
const kernelPrefix = "kernel-"

// NBDIdentity begins the identity of each NBD device of ours; the attachment's ID follows.
const NBDIdentity = "rivulet-"

// NBDMount mounts the file system of a disk by way of the kernel's own NBD client (host.Frontend):
// read-only, unless the disk can be written. It needs root.
//
// No descriptor is kept for it: the kernel waits by itself, as long as Patience, and takes another
// socket only when the one that it has is dead.
type NBDMount struct {
	// Patience is how long readers wait for the next process when this one has died; 0: they get errors.
	Patience time.Duration
	Logger   *slog.Logger // nil: nobody

	mu     sync.Mutex
	server *nbd.Server // of all devices; nil: none since the last Release
	offers map[string]*watchedMount
}

var _ host.Frontend = (*NBDMount)(nil)

// An nbdMountState is what the next process needs to go on, besides the device's identity.
type nbdMountState struct {
	// Boot is the one in which it was mounted: in another there is nothing to go on with, and in the same
	// one a mount that is gone was unmounted.
	Boot     string `json:"nbd_boot"`
	Reserved int64  `json:"reserved,omitempty"` // as that of a fileState
}

// bootID is the kernel's name of what has passed since this machine was started.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// Offer implements [host.Frontend]: o.Where is the directory.
func (m *NBDMount) Offer(_ context.Context, o host.Offer) (host.Offered, error) {
	if err := o.AbsoluteDir(); err != nil {
		return nil, err
	}
	var st nbdMountState
	if o.State != nil {
		if err := json.Unmarshal(o.State, &st); err != nil {
			return nil, fmt.Errorf("mount %s: state: %w", o.Where, err)
		}
	}
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", o.Where, err)
	}
	f := &kernelDevice{NBDMount: m, id: o.ID}
	if f.server, err = m.export(&o); err != nil {
		return nil, fmt.Errorf("mount %s: %w", o.Where, err)
	}
	mounted, err := f.begin(&o, st.Boot == boot)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s by NBD: %w", o.Where, err), f.unexport())
	}
	mounted.Same = f.device.Connected
	st.Boot = boot
	if err := keepNBDMount(&o, mounted, &st); err != nil {
		return nil, errors.Join(err, mounted.Detach(), f.device.Disconnect(), f.unexport())
	}
	w := newWatchedMount(f, mounted, o.Where, m.Logger)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.offers == nil {
		m.offers = make(map[string]*watchedMount)
	}
	m.offers[o.ID] = w
	w.watch()
	return w, nil
}

// export has the server offer the disk under the attachment's ID.
func (m *NBDMount) export(o *host.Offer) (*nbd.Server, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.server == nil {
		m.server = &nbd.Server{Log: m.Logger}
	}
	return m.server, m.server.AddExport(nbd.Export{Name: o.ID, Description: o.Description, Device: o.Device})
}

// begin goes on with the device of the process before, or makes one and mounts it. mountedBefore says that
// it was mounted since this machine was started.
func (d *kernelDevice) begin(o *host.Offer, mountedBefore bool) (*loopmount.Mounted, error) {
	if !o.Again {
		if err := vacant(o.Where); err != nil {
			return nil, err
		}
		return d.beginAnew(o)
	}
	before, err := kernelnbd.Find(NBDIdentity + d.id)
	if err != nil && !errors.Is(err, kernelnbd.ErrNotFound) {
		return nil, err
	}
	if before != nil {
		there, err := loopmount.FindDevice(o.Where, before.Path())
		if err == nil {
			d.device = before
			return there, d.resume(o)
		}
		if !errors.Is(err, loopmount.ErrNotMounted) {
			return nil, err
		}
		// Of a mount that was not finished, or that is gone.
		if err := before.Disconnect(); err != nil {
			return nil, err
		}
	}
	if mountedBefore {
		return nil, host.ErrGone
	}
	return d.beginAnew(o)
}

// beginAnew makes a device and mounts it. Until it is mounted, nothing else takes it down if this
// process dies but the next one, which finds it by its identity.
func (d *kernelDevice) beginAnew(o *host.Offer) (*loopmount.Mounted, error) {
	ours, theirs, err := fdpass.Streams()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	if err := d.server.Join(context.Background(), d.id, ours.Take()); err != nil {
		return nil, err
	}
	_, writable := o.Device.(blockdev.Writer)
	d.device, err = kernelnbd.Connect(theirs.FD(), kernelnbd.Options{
		Size: o.Device.Size(), BlockSize: blockSize, Writable: writable, ReadAhead: readAhead,
		Identity: NBDIdentity + d.id, Patience: d.Patience,
	})
	if err != nil {
		return nil, err
	}
	mounted, err := loopmount.MountDevice(d.device.Path(), o.Where, writable)
	if err != nil {
		return nil, errors.Join(err, d.device.Disconnect())
	}
	if err := d.device.DisconnectOnClose(); err != nil {
		return nil, errors.Join(err, mounted.Detach(), d.device.Disconnect())
	}
	return mounted, nil
}

// resume goes on with the connection of the process before, if that has handed it over; else, with another one.
func (d *kernelDevice) resume(o *host.Offer) error {
	if o.Inherited != nil {
		if inherited, ok := o.Inherited.Take(kernelPrefix + d.id); ok {
			defer func() { _ = inherited.File.Close() }()
			var st nbd.ConnState
			err := json.Unmarshal(inherited.State, &st)
			if err == nil {
				err = d.server.Resume(context.Background(), nbd.Handed{State: st, FD: inherited.File.Take()})
			}
			if err == nil {
				return nil
			}
			if d.Logger != nil {
				d.Logger.Warn("the kernel's connection is not taken over, it gets another", "id", d.id, "err", err)
			}
		}
	}
	ours, theirs, err := fdpass.Streams()
	if err != nil {
		return err
	}
	defer func() { _ = theirs.Close() }()
	if err := d.server.Join(context.Background(), d.id, ours.Take()); err != nil {
		return err
	}
	return d.device.Reconnect(theirs.FD())
}

// keepNBDMount bounds what may be written, and has the next process know of the mount.
func keepNBDMount(o *host.Offer, mounted *loopmount.Mounted, st *nbdMountState) error {
	if err := limit(mounted, o.Room, &st.Reserved); err != nil {
		return err
	}
	state, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return o.Save(state)
}

// A kernelDevice is an NBD device of the kernel's, and the export that it reads.
type kernelDevice struct {
	*NBDMount
	id     string
	server *nbd.Server
	device *kernelnbd.Device
}

var _ mountSource = (*kernelDevice)(nil)

// gone is nil: without a server, the kernel waits for the next one.
func (d *kernelDevice) gone() <-chan struct{} { return nil }
func (d *kernelDevice) why() error            { return nil }
func (d *kernelDevice) cut() error            { return d.device.Disconnect() }

// end waits for the kernel, which takes a device down with its last user.
func (d *kernelDevice) end(ctx context.Context, force bool) error {
	for d.device.Connected() {
		if pause(ctx) == nil {
			continue
		}
		if !force {
			return fmt.Errorf("%s: %w", d.device.Path(), host.ErrBusy)
		}
		if err := d.device.Disconnect(); err != nil {
			return err
		}
		break
	}
	d.mu.Lock()
	delete(d.offers, d.id)
	d.mu.Unlock()
	return d.unexport()
}

func (d *kernelDevice) unexport() error {
	return d.server.RemoveExport(context.Background(), d.id)
}

// Begin implements [host.Frontend]; a mount is there at once.
func (m *NBDMount) Begin() error { return nil }

// Release implements [host.Frontend]. A process that takes the connections has the kernel notice nothing;
// else the kernel notices that they are closed, and waits for the next one.
func (m *NBDMount) Release(ctx context.Context) ([]keep.Descriptor, error) {
	m.mu.Lock()
	server, offers := m.server, m.offers
	m.server, m.offers = nil, nil
	m.mu.Unlock()
	stopAll(slices.Collect(maps.Values(offers)))
	if server == nil {
		return nil, nil
	}
	handed, err := server.HandOff(ctx)
	errs := []error{err}
	var all []keep.Descriptor
	for _, h := range handed {
		state, err := json.Marshal(h.State)
		errs = append(errs, err)
		all = append(all, keep.Descriptor{Name: kernelPrefix + h.State.Export, State: state, File: fdpass.NewFile(h.FD)})
	}
	return all, errors.Join(errs...)
}
