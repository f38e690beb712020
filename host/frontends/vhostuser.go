package frontends

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/frontend/vhostuser"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// vhostPrefix and the attachment's ID name its listening socket.
const vhostPrefix = "vhost-"

// VhostUser offers disks to virtual machines over vhost-user-blk, each at a socket
// of its own (host.Frontend). Only the listening socket goes to the next process:
// front ends come back to it by themselves, and bring what they were at.
type VhostUser struct {
	Keeper keep.Keeper
	Logger *slog.Logger  // nil: nobody
	Poll   time.Duration // as in vhostuser.Server

	mu      sync.Mutex // not held over waits
	offered map[string]*offeredVhostUser
}

var _ host.Frontend = (*VhostUser)(nil)

// Offer implements [host.Frontend]: o.Where is unix:PATH, o.Name the serial number.
func (v *VhostUser) Offer(_ context.Context, o host.Offer) (host.Offered, error) {
	if !strings.HasPrefix(o.Where, "unix:") || o.TLS != nil {
		return nil, host.SpecErrorf("attach: vhost-user wants unix:PATH, without TLS, not %q", o.Where)
	}
	ln, err := v.listen(o)
	if err != nil {
		return nil, err
	}
	s := &offeredVhostUser{
		VhostUser: v, id: o.ID, listener: ln, failed: make(chan struct{}),
		address: "unix:" + Absolute(ln.Addr()).String(),
		server:  &vhostuser.Server{Export: vhostuser.Export{Device: o.Device, Serial: o.Name}, Log: v.Logger, Poll: v.Poll},
	}
	own, err := fdpass.Of(ln.(syscall.Conn))
	if err == nil {
		err = v.Keeper.Keep(vhostPrefix+o.ID, own)
		_ = own.Close()
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close(), v.Keeper.Forget(vhostPrefix+o.ID))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.offered == nil {
		v.offered = make(map[string]*offeredVhostUser)
	}
	v.offered[o.ID] = s
	return s, nil
}

// listen takes over the socket of the process before, or opens one.
func (v *VhostUser) listen(o host.Offer) (net.Listener, error) {
	if o.Inherited != nil {
		if d, ok := o.Inherited.Take(vhostPrefix + o.ID); ok {
			if ln := inheritedListener(d); ln != nil {
				return ln, nil
			}
		}
	}
	return nbd.Listen(o.Where)
}

// Begin implements [host.Frontend].
func (v *VhostUser) Begin() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.offered {
		s.begin()
	}
	return nil
}

// Release implements [host.Frontend]. Requests that were taken are answered; front
// ends connect anew, to the next process.
func (v *VhostUser) Release(ctx context.Context) ([]keep.Descriptor, error) {
	v.mu.Lock()
	offered := v.offered
	v.offered = nil
	v.mu.Unlock()
	return releaseAll(offered, func(s *offeredVhostUser) ([]keep.Descriptor, error) {
		d, err := s.release(ctx)
		if d.File == nil {
			return nil, err
		}
		return []keep.Descriptor{d}, err
	})
}

// An offeredVhostUser is one disk at its socket.
type offeredVhostUser struct {
	*VhostUser
	id, address string
	server      *vhostuser.Server
	listener    net.Listener
	begun       bool // mu's

	failed  chan struct{} // closed when the socket fails
	failure error         // set before that
}

var _ host.Offered = (*offeredVhostUser)(nil)

// begin lets a front end in; v.mu is held.
func (s *offeredVhostUser) begin() {
	if s.begun {
		return
	}
	s.begun = true
	go func() {
		if err := s.server.Serve(context.Background(), s.listener); err != nil {
			s.failure = err
			close(s.failed)
		}
	}()
}

// release ends serving and returns the listening socket.
func (s *offeredVhostUser) release(ctx context.Context) (keep.Descriptor, error) {
	own, err := fdpass.Of(s.listener.(syscall.Conn))
	if u, ok := s.listener.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return keep.Descriptor{Name: vhostPrefix + s.id, File: own}, errors.Join(err, s.stop(ctx))
}

// stop ends serving, whether it has begun or not.
func (s *offeredVhostUser) stop(ctx context.Context) error {
	err := s.server.Shutdown(ctx)
	_ = s.listener.Close() // of one that has not
	return err
}

// Address implements [host.Offered].
func (s *offeredVhostUser) Address() string { return s.address }

// Done implements [host.Offered].
func (s *offeredVhostUser) Done() <-chan struct{} { return s.failed }

// Err implements [host.Offered].
func (s *offeredVhostUser) Err() error { return s.failure }

// Detach implements [host.Offered]. A front end that is connected uses the disk.
// With force its requests are answered, and no more are taken.
func (s *offeredVhostUser) Detach(ctx context.Context, force bool) error {
	for !force && s.server.Connected() {
		if pause(ctx) != nil {
			return fmt.Errorf("%s has a front end: %w", s.address, host.ErrBusy)
		}
	}
	// Bounded by the device's time.
	if err := s.stop(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.offered, s.id)
	s.mu.Unlock()
	return s.Keeper.Forget(vhostPrefix + s.id)
}
