package frontends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
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
	offers map[string]*offeredNBDMount
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
	f := &offeredNBDMount{NBDMount: m, id: o.ID, dir: o.Where, done: make(chan struct{})}
	if f.server, err = m.export(&o); err != nil {
		return nil, fmt.Errorf("mount %s: %w", o.Where, err)
	}
	if err := f.begin(&o, st.Boot == boot); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s by NBD: %w", o.Where, err), f.unexport())
	}
	st.Boot = boot
	if err := f.keep(&o, &st); err != nil {
		return nil, errors.Join(err, f.mounted.Detach(), f.device.Disconnect(), f.unexport())
	}
	f.startWatch()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.offers == nil {
		m.offers = make(map[string]*offeredNBDMount)
	}
	m.offers[o.ID] = f
	return f, nil
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
func (o *offeredNBDMount) begin(offer *host.Offer, mountedBefore bool) error {
	there, err := loopmount.Find(o.dir)
	if err != nil && !errors.Is(err, loopmount.ErrNotMounted) {
		return err
	}
	if !offer.Again {
		if there != nil { // two on one directory could not be told apart when they are taken down
			return fmt.Errorf("%s is mounted there already", there.Device)
		}
		return o.beginAnew(offer)
	}
	device, err := kernelnbd.Find(NBDIdentity + o.id)
	if err != nil && !errors.Is(err, kernelnbd.ErrNotFound) {
		return err
	}
	if device != nil && there != nil && there.Device == device.Path() {
		o.device, o.mounted = device, there
		return o.resume(offer)
	}
	if device != nil { // of a mount that was not finished, or that is gone
		if err := device.Disconnect(); err != nil {
			return err
		}
	}
	if mountedBefore {
		return host.ErrGone
	}
	return o.beginAnew(offer)
}

// beginAnew makes a device and mounts it. Until it is mounted, nothing else takes it down if this
// process dies but the next one, which finds it by its identity.
func (o *offeredNBDMount) beginAnew(offer *host.Offer) error {
	ours, theirs, err := fdpass.Streams()
	if err != nil {
		return err
	}
	defer func() { _ = theirs.Close() }()
	if err := o.server.Join(context.Background(), o.id, ours.Take()); err != nil {
		return err
	}
	_, writable := offer.Device.(blockdev.Writer)
	o.device, err = kernelnbd.Connect(theirs.FD(), kernelnbd.Options{
		Size: offer.Device.Size(), BlockSize: blockSize, Writable: writable, ReadAhead: readAhead,
		Identity: NBDIdentity + o.id, Patience: o.Patience,
	})
	if err != nil {
		return err
	}
	o.mounted, err = loopmount.MountDevice(o.device.Path(), o.dir, writable)
	if err != nil {
		return errors.Join(err, o.device.Disconnect())
	}
	if err := o.device.DisconnectOnClose(); err != nil {
		return errors.Join(err, o.mounted.Detach(), o.device.Disconnect())
	}
	return nil
}

// resume goes on with the connection of the process before, if that has handed it over; else, with another one.
func (o *offeredNBDMount) resume(offer *host.Offer) error {
	if offer.Inherited != nil {
		if d, ok := offer.Inherited.Take(kernelPrefix + o.id); ok {
			defer func() { _ = d.File.Close() }()
			var st nbd.ConnState
			err := json.Unmarshal(d.State, &st)
			if err == nil {
				err = o.server.Resume(context.Background(), nbd.Handed{State: st, FD: d.File.Take()})
			}
			if err == nil {
				return nil
			}
			if o.Logger != nil {
				o.Logger.Warn("the kernel's connection is not taken over, it gets another", "id", o.id, "err", err)
			}
		}
	}
	ours, theirs, err := fdpass.Streams()
	if err != nil {
		return err
	}
	defer func() { _ = theirs.Close() }()
	if err := o.server.Join(context.Background(), o.id, ours.Take()); err != nil {
		return err
	}
	return o.device.Reconnect(theirs.FD())
}

// keep bounds what may be written, and has the next process know of the mount.
func (o *offeredNBDMount) keep(offer *host.Offer, st *nbdMountState) error {
	if err := limit(o.mounted, offer.Room, &st.Reserved); err != nil {
		return err
	}
	state, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return offer.Save(state)
}

// An offeredNBDMount is a mount, its device, and the export that the device reads.
type offeredNBDMount struct {
	*NBDMount
	id, dir string
	server  *nbd.Server
	device  *kernelnbd.Device
	mounted *loopmount.Mounted
	done    chan struct{} // closed by watch, after err is set
	err     error
	stop    context.CancelFunc
	stopped chan struct{}
}

var _ host.Offered = (*offeredNBDMount)(nil)

// Address implements [host.Offered].
func (o *offeredNBDMount) Address() string { return o.dir }

// Done implements [host.Offered].
func (o *offeredNBDMount) Done() <-chan struct{} { return o.done }

// Err implements [host.Offered].
func (o *offeredNBDMount) Err() error { return o.err }

func (o *offeredNBDMount) startWatch() {
	ctx, stop := context.WithCancel(context.Background())
	o.stop, o.stopped = stop, make(chan struct{})
	go o.watch(ctx)
}

// watch waits for the end of the mount, by whomever.
func (o *offeredNBDMount) watch(ctx context.Context) {
	defer close(o.stopped)
	err := o.mounted.AwaitUnmount(ctx)
	if ctx.Err() != nil {
		return
	}
	wait, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	o.err = errors.Join(err, o.takeDevice(wait, true))
	close(o.done)
}

// takeDevice waits until a device that is not mounted here any more is gone; one that another mount namespace
// has, is taken from it with force when ctx ends.
func (o *offeredNBDMount) takeDevice(ctx context.Context, force bool) error {
	for o.device.Connected() {
		if pause(ctx) == nil {
			continue
		}
		if !force {
			return fmt.Errorf("%s: %w", o.device.Path(), host.ErrBusy)
		}
		if err := o.device.Disconnect(); err != nil {
			return err
		}
		break
	}
	o.mu.Lock()
	delete(o.offers, o.id)
	o.mu.Unlock()
	return o.unexport()
}

func (o *offeredNBDMount) unexport() error {
	return o.server.RemoveExport(context.Background(), o.id)
}

// Detach implements [host.Offered].
func (o *offeredNBDMount) Detach(ctx context.Context, force bool) error {
	o.stop()
	<-o.stopped
	select {
	case <-o.done:
		return nil // somebody else did
	default:
	}
	err := o.unmount(ctx, force)
	if err == nil {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWait)
		defer cancel()
		err = o.takeDevice(wait, force)
	}
	if err != nil {
		o.startWatch()
	}
	return err
}

// unmount unmounts once nobody uses the mount; with force, when ctx ends: from then on its users get
// I/O errors.
func (o *offeredNBDMount) unmount(ctx context.Context, force bool) error {
	for {
		err := o.mounted.Unmount(ctx)
		if !errors.Is(err, loopmount.ErrBusy) {
			return err
		}
		if pause(ctx) == nil {
			continue
		}
		if !force {
			return fmt.Errorf("%s: %w", o.dir, host.ErrBusy)
		}
		if o.Logger != nil {
			o.Logger.Warn("the mount is in use, and gives I/O errors from now on", "where", o.dir)
		}
		return errors.Join(o.mounted.Detach(), o.device.Disconnect())
	}
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
	for _, o := range offers {
		o.stop()
	}
	for _, o := range offers {
		<-o.stopped
	}
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
