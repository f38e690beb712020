package frontends

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/fdpass"
)

// Prefixes of descriptors; an address's label follows.
const (
	listenPrefix = "nbd-"
	connPrefix   = "conn-"
)

// NBD offers disks as exports of NBD servers, one for each address
// (host.Frontend).
type NBD struct {
	Keeper keep.Keeper
	// Listeners, if there are any, are where all exports are offered, instead of
	// at addresses: sockets that somebody opened for this process.
	Listeners []net.Listener
	Logger    *slog.Logger // nil: nobody

	mu      sync.Mutex // guards servers and what is in them; not held over waits
	servers map[string]*nbdServer
	gone    nbd.Stats // of servers that were closed
}

// Stats returns what all servers did, those included that were closed.
func (n *NBD) Stats() nbd.Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	sum := n.gone
	for _, s := range n.servers {
		addStats(&sum, s.Stats())
	}
	return sum
}

func addStats(sum *nbd.Stats, s nbd.Stats) {
	sum.Connections += s.Connections
	sum.Accepted += s.Accepted
	sum.Refused += s.Refused
	sum.Requests += s.Requests
	sum.Failed += s.Failed
	sum.DeviceErrors += s.DeviceErrors
	sum.BytesRead += s.BytesRead
}

var _ host.Frontend = (*NBD)(nil)

// An nbdServer is the server at one address.
type nbdServer struct {
	*nbd.Server
	where     string
	tls       *host.TLS
	listeners []net.Listener
	pending   []keep.Descriptor // connections to resume
	exports   int
	begun     bool
	stopping  bool           // on purpose
	serving   sync.WaitGroup // calls of Serve

	failed  chan struct{} // closed when a listener fails
	failure error         // set before that
}

// An nbdState is what a listening socket does not say: the address it was opened
// for may have left the port to the system.
type nbdState struct {
	Address string `json:"address"`
}

// label names an address in a descriptor's name.
func label(where string) string {
	sum := sha256.Sum256([]byte(where))
	return hex.EncodeToString(sum[:8])
}

// Offer implements [host.Frontend]: o.Where is an address as nbd.Listen has it.
func (n *NBD) Offer(_ context.Context, o host.Offer) (host.Offered, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.servers[o.Where]
	if s == nil {
		var err error
		if s, err = n.open(o); err != nil {
			return nil, err
		}
		if n.servers == nil {
			n.servers = make(map[string]*nbdServer)
		}
		n.servers[o.Where] = s
	}
	err := s.add(o)
	if err != nil {
		if s.exports == 0 {
			n.close(s)
		}
		return nil, err
	}
	return &offeredNBD{NBD: n, server: s, name: o.Name, address: s.address(o.Name)}, nil
}

// add offers one export; n.mu is held.
func (s *nbdServer) add(o host.Offer) error {
	if (s.tls == nil) != (o.TLS == nil) || s.tls != nil && *s.tls != *o.TLS {
		return host.SpecErrorf("attach %q: %s is served with other TLS files, or without", o.Name, s.where)
	}
	if err := s.AddExport(nbd.Export{Name: o.Name, Description: o.Description, Device: o.Device}); err != nil {
		return host.SpecErrorf("%w", err)
	}
	if err := s.savePort(o); err != nil {
		return errors.Join(err, s.RemoveExport(context.Background(), o.Name))
	}
	s.exports++
	return nil
}

// savePort keeps the TCP port, which the system may have chosen. The path of a unix
// socket is known.
func (s *nbdServer) savePort(o host.Offer) error {
	a := s.listeners[0].Addr()
	if a.Network() != "tcp" {
		return nil
	}
	state, err := json.Marshal(nbdState{"tcp:" + a.String()})
	if err != nil || bytes.Equal(state, o.State) {
		return err
	}
	return o.Save(state)
}

// open makes the server of an address; n.mu is held.
func (n *NBD) open(o host.Offer) (*nbdServer, error) {
	s := &nbdServer{Server: &nbd.Server{Log: n.Logger}, where: o.Where, tls: o.TLS, failed: make(chan struct{})}
	if t := o.TLS; t != nil {
		config, err := nbd.LoadTLS(t.Certificate, t.Key, t.ClientCA)
		if err != nil {
			return nil, err
		}
		s.TLS, s.RequireTLS = config, true
	}
	if len(n.Listeners) > 0 {
		s.listeners = n.Listeners
		return s, nil
	}
	ln, err := n.listen(o)
	if err != nil {
		return nil, err
	}
	s.listeners = []net.Listener{ln}
	if o.Inherited != nil {
		s.pending = o.Inherited.TakePrefix(connPrefix + label(o.Where) + "-")
	}
	own, err := fdpass.Of(ln.(syscall.Conn))
	if err == nil {
		err = n.Keeper.Keep(listenPrefix+label(o.Where), own)
		_ = own.Close()
	}
	if err != nil {
		n.close(s)
		return nil, err
	}
	return s, nil
}

// listen takes over the socket of the process before, or opens one where that
// was.
func (n *NBD) listen(o host.Offer) (net.Listener, error) {
	if o.Inherited != nil {
		if d, ok := o.Inherited.Take(listenPrefix + label(o.Where)); ok {
			if ln := inheritedListener(d); ln != nil {
				return ln, nil
			}
		}
	}
	where := o.Where
	var st nbdState
	if o.State != nil && json.Unmarshal(o.State, &st) == nil && strings.HasPrefix(st.Address, "tcp:") {
		where = st.Address
	}
	return nbd.Listen(where)
}

// inheritedListener makes a listener of a socket that the process before kept, or
// returns nil.
func inheritedListener(d keep.Descriptor) net.Listener {
	ln, err := d.File.Listener()
	_ = d.File.Close()
	if err != nil {
		return nil
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(true) // as that of nbd.Listen
	}
	return ln
}

// address is the export's URI; where there are several listeners, all of them,
// with blanks between.
func (s *nbdServer) address(name string) string {
	var all []string
	for _, ln := range s.listeners {
		if uri, err := nbd.URI(Absolute(ln.Addr()), name, s.tls != nil); err == nil {
			all = append(all, uri)
		}
	}
	return strings.Join(all, " ")
}

// Absolute returns an address that means the same to clients in other folders.
func Absolute(a net.Addr) net.Addr {
	u, ok := a.(*net.UnixAddr)
	if !ok || strings.HasPrefix(u.Name, "@") { // abstract ones have no folder
		return a
	}
	path, err := filepath.Abs(u.Name)
	if err != nil {
		return a
	}
	return &net.UnixAddr{Name: path, Net: u.Net}
}

// Begin implements [host.Frontend].
func (n *NBD) Begin() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.servers {
		n.begin(s)
	}
	return nil
}

// begin accepts clients, and goes on with those of the process before; n.mu is
// held.
func (n *NBD) begin(s *nbdServer) {
	for _, d := range s.pending {
		var st nbd.ConnState
		err := json.Unmarshal(d.State, &st)
		if err == nil {
			err = s.Resume(context.Background(), nbd.Handed{State: st, FD: d.File.Take()})
		}
		_ = d.File.Close()
		if err != nil && n.Logger != nil {
			n.Logger.Error("a connection is lost in the hand-over", "address", s.where, "err", err)
		}
	}
	s.pending = nil
	if s.begun {
		return
	}
	s.begun = true
	for _, ln := range s.listeners {
		s.serving.Go(func() {
			err := s.Serve(context.Background(), ln)
			n.mu.Lock()
			defer n.mu.Unlock()
			if !s.stopping && err != nil && s.failure == nil {
				s.failure = err
				close(s.failed)
			}
		})
	}
}

// close ends a server that offers nothing; n.mu is held. Its connections have
// ended with their exports.
func (n *NBD) close(s *nbdServer) {
	s.stopping = true
	delete(n.servers, s.where)
	s.Close()
	ended := s.Stats()
	ended.Connections = 0
	addStats(&n.gone, ended)
	// Also those that Serve has not come to: closed later, one would take away
	// the socket of whoever listens at the same path by then.
	for _, ln := range s.listeners {
		_ = ln.Close()
	}
	for _, d := range s.pending {
		_ = d.File.Close()
	}
	if len(n.Listeners) > 0 {
		return
	}
	if err := n.Keeper.Forget(listenPrefix + label(s.where)); err != nil && n.Logger != nil {
		n.Logger.Warn("listening socket is not forgotten", "address", s.where, "err", err)
	}
}

// Release implements [host.Frontend].
func (n *NBD) Release(ctx context.Context) ([]keep.Descriptor, error) {
	n.mu.Lock()
	servers := n.servers
	n.servers = nil
	for _, s := range servers {
		s.stopping = true
	}
	n.mu.Unlock()
	return releaseAll(servers, func(s *nbdServer) ([]keep.Descriptor, error) { return s.release(ctx) })
}

// releaseAll releases all of a frontend at once, and returns what they leave to the next process.
func releaseAll[S any](all map[string]S, release func(S) ([]keep.Descriptor, error)) ([]keep.Descriptor, error) {
	var mu sync.Mutex
	var left []keep.Descriptor
	var errs []error
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(func() {
			list, err := release(s)
			mu.Lock()
			defer mu.Unlock()
			left, errs = append(left, list...), append(errs, err)
		})
	}
	wg.Wait()
	return left, errors.Join(errs...)
}

// release hands the server off, as the descriptors of its sockets.
func (s *nbdServer) release(ctx context.Context) ([]keep.Descriptor, error) {
	all := s.pending // of the process before, if Begin did not come to them
	var errs []error
	for _, ln := range s.listeners {
		if c, ok := ln.(syscall.Conn); ok {
			own, err := fdpass.Of(c)
			all, errs = append(all, keep.Descriptor{Name: listenPrefix + label(s.where), File: own}), append(errs, err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
	}
	handed, err := s.HandOff(ctx)
	errs = append(errs, err)
	for _, ln := range s.listeners {
		_ = ln.Close() // which nobody has served yet, maybe
	}
	s.serving.Wait()
	for i, h := range handed {
		state, err := json.Marshal(h.State)
		errs = append(errs, err)
		all = append(all, keep.Descriptor{
			Name:  fmt.Sprintf("%s%s-%d", connPrefix, label(s.where), len(s.pending)+i),
			State: state, File: fdpass.NewFile(h.FD),
		})
	}
	return all, errors.Join(errs...)
}

// An offeredNBD is one export.
type offeredNBD struct {
	*NBD
	server        *nbdServer
	name, address string
}

var _ host.Offered = (*offeredNBD)(nil)

// Address implements [host.Offered].
func (o *offeredNBD) Address() string { return o.address }

// Done implements [host.Offered].
func (o *offeredNBD) Done() <-chan struct{} { return o.server.failed }

// Err implements [host.Offered].
func (o *offeredNBD) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.server.failure
}

// Detach implements [host.Offered]. A client that is connected uses the disk. With
// force it is answered what it has asked, and goes at once.
func (o *offeredNBD) Detach(ctx context.Context, force bool) error {
	for !force && o.server.Users(o.name) > 0 {
		if pause(ctx) != nil {
			return fmt.Errorf("%s has clients: %w", o.address, host.ErrBusy)
		}
	}
	// Bounded by the device's time, and the clients' to take their replies.
	err := o.server.RemoveExport(context.WithoutCancel(ctx), o.name)
	if err != nil {
		return err
	}
	o.mu.Lock()
	o.server.exports--
	last := o.server.exports == 0
	if last {
		o.close(o.server)
	}
	o.mu.Unlock()
	if last {
		o.server.serving.Wait()
	}
	return nil
}
