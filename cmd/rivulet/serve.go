package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/generation"
)

// drainTime is how long a server that is told to end waits for its clients.
const drainTime = 5 * time.Second

func (a *app) serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve IMAGE...",
		Short: "Offer disks over NBD, fetching chunks as they are read",
		Long: `Serve offers each image as an NBD export of its name, read-only, and prints a
line "ready URI" for each when clients can connect. It ends on SIGTERM or
SIGINT. Under systemd it tells when it is ready and takes a socket that was
opened for it.`,
		Example: `  rivulet serve nginx --nbd unix:/run/nginx.sock
  qemu-system-x86_64 -drive file=nbd:unix:/run/nginx.sock:exportname=nginx,format=raw ...

  rivulet serve nginx postgres --nbd tcp:127.0.0.1:10809
  nbd-client 127.0.0.1 10809 /dev/nbd0 -N nginx`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind, _, _ := strings.Cut(o.address, ":"); o.address != "" && kind != "unix" && kind != "tcp" {
				return usagef("--nbd %q: want unix:PATH or tcp:HOST:PORT", o.address)
			}
			if (o.tlsCert == "") != (o.tlsKey == "") || (o.tlsClientCA != "" && o.tlsCert == "") {
				return usagef("--tls-cert and --tls-key go together, and --tls-client-ca needs both")
			}
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			return a.serve(cmd.Context(), view, args, &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.address, "nbd", "", "where to listen: unix:PATH or tcp:HOST:PORT (default: a socket in the user's runtime folder)")
	f.StringVar(&o.memory, "memory", "256M", "bound of what is kept decoded in memory, for all disks together")
	a.origin.addFlags(f)
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate file (PEM); clients must use TLS then")
	f.StringVar(&o.tlsKey, "tls-key", "", "key file of the certificate (PEM)")
	f.StringVar(&o.tlsClientCA, "tls-client-ca", "", "file of authorities (PEM) that client certificates must come from")
	a.cacheFlag(cmd)
	f.BoolVar(&o.json, "json", false, "at the end, print what each disk did as a JSON object a line")
	return cmd
}

type serveOptions struct {
	address, memory              string
	json                         bool
	tlsCert, tlsKey, tlsClientCA string
}

// serve offers the images until ctx ends.
func (a *app) serve(ctx context.Context, v *generation.View, names []string, o *serveOptions) error {
	budget, err := parseSize(o.memory)
	if err != nil {
		return err
	}
	srv := &nbd.Server{Log: a.logger()}
	if o.tlsCert != "" {
		if srv.TLS, err = nbd.LoadTLS(o.tlsCert, o.tlsKey, o.tlsClientCA); err != nil {
			return err
		}
		srv.RequireTLS = true
	}
	memory := disk.NewMemory(budget)
	disks := make(map[string]*stack, len(names))
	for _, name := range names {
		d, done, err := a.attach(ctx, v, name, memory)
		if err != nil {
			return err
		}
		defer func() { _ = done() }()
		if err := srv.AddExport(nbd.Export{Name: name, Description: d.Map().Info().Disk.String(), Device: d}); err != nil {
			return usageError{err}
		}
		disks[name] = d
	}
	listeners, err := o.listen()
	if err != nil {
		return err
	}
	// The signal ends accepting; what has arrived is still answered, so the
	// connections do not see ctx.
	g, gctx := errgroup.WithContext(context.WithoutCancel(ctx))
	for _, l := range listeners {
		g.Go(func() error {
			err := srv.Serve(gctx, l)
			if errors.Is(err, nbd.ErrClosed) && ctx.Err() != nil {
				return nil // told to end before it had begun
			}
			return err
		})
	}
	announced := a.announce(listeners, names, o)
	if announced == nil {
		select {
		case <-ctx.Done():
		case <-gctx.Done(): // a listener failed
		}
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	_ = srv.Shutdown(drain) // the connections left then are cut off
	if err := errors.Join(announced, g.Wait()); err != nil {
		return err
	}
	return a.reportServed(names, disks, o.json)
}

// A served tells what a disk did while it was offered.
type served struct {
	Name         string `json:"name"`
	Reads        int64  `json:"reads"`
	ReadBytes    int64  `json:"read_bytes"`
	Fetches      int64  `json:"fetches"`
	FetchedBytes int64  `json:"fetched_bytes"`
	Errors       int64  `json:"errors"`
}

// reportServed says, when all is over, what was read and what that took.
func (a *app) reportServed(names []string, disks map[string]*stack, asJSON bool) error {
	for _, name := range names {
		st := disks[name].Stats()
		r := served{Name: name, Reads: st.Reads, ReadBytes: st.Bytes, Fetches: st.Fetches, FetchedBytes: st.FetchedBytes, Errors: st.Errors}
		if asJSON {
			if err := json.NewEncoder(a.out).Encode(r); err != nil {
				return err
			}
			continue
		}
		a.note("%s: %d reads of %s in all; fetched %s in %d requests to the store; %d errors",
			name, r.Reads, size(r.ReadBytes), size(r.FetchedBytes), r.Fetches, r.Errors)
	}
	return nil
}

// listen takes the sockets that systemd opened, or opens the one asked for.
func (o *serveOptions) listen() ([]net.Listener, error) {
	listeners, err := nbd.Inherited()
	if err != nil || len(listeners) > 0 {
		return listeners, err
	}
	address := o.address
	if address == "" {
		if address, err = defaultSocket(); err != nil {
			return nil, err
		}
	}
	l, err := nbd.Listen(address)
	return []net.Listener{l}, err
}

// announce says that clients can connect.
func (a *app) announce(listeners []net.Listener, names []string, o *serveOptions) error {
	for _, l := range listeners {
		for _, name := range names {
			uri, err := nbd.URI(absolute(l.Addr()), name, o.tlsCert != "")
			if err != nil {
				return err
			}
			a.printf("ready %s\n", uri)
		}
	}
	if err := nbd.Notify("READY=1"); err != nil {
		a.note("rivulet: %v", err)
	}
	return nil
}

// absolute returns an address that means the same to clients in other folders.
func absolute(a net.Addr) net.Addr {
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

// defaultSocket is where serve listens if it is not told.
func defaultSocket() (string, error) {
	dir, err := runtimeDir()
	if err != nil {
		return "", err
	}
	return "unix:" + filepath.Join(dir, "nbd.sock"), nil
}

// runtimeDir returns a folder for sockets and mounts that only this user can
// enter, and makes it if need be.
func runtimeDir() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("rivulet-%d", os.Geteuid()))
	if base := os.Getenv("XDG_RUNTIME_DIR"); base != "" {
		dir = filepath.Join(base, "rivulet")
	} else if os.Geteuid() == 0 && runtime.GOOS == "linux" {
		dir = "/run/rivulet"
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("runtime folder: %w", err)
	}
	return dir, ownedAlone(dir)
}

// ownedAlone refuses a folder that others could put files into: in a shared
// temporary folder anybody may have made it first.
func ownedAlone(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("runtime folder: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode()&0o022 != 0 || !ok || int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("runtime folder %s: others may write to it; set XDG_RUNTIME_DIR to a folder of your own", dir)
	}
	return nil
}
