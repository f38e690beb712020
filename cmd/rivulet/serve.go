package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
	"github.com/rivuletfs/rivulet/internal/runtimedir"
	"github.com/rivuletfs/rivulet/internal/systemd"
)

// drainTime is how long a server that is told to end waits for its clients.
const drainTime = 5 * time.Second

func (a *app) serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve IMAGE...",
		Short: "Offer disks over NBD or vhost-user, fetching chunks as they are read",
		Long: `Serve offers each image as an NBD export of its name, and prints a line "ready
URI" for each when clients can connect. With --vhost-user it offers one image to a
virtual machine as a virtio disk instead, in memory that the machine shares; if serve
ends and is started again, the guest sees a pause and no error (QEMU: reconnect=1). It
ends on SIGTERM or SIGINT. Under systemd it tells when it is ready and takes a socket
that was opened for it.

Exports are read-only unless --writable is given. Then what clients write is kept
beside, encrypted, block by block; the image stays as it is. With --overlay that
outlives serve, and can be served again over the same image, or made an image of
its own by 'rivulet commit'.

If an agent runs (see 'rivulet agent'), that holds the disks, with its own memory
and credentials, and serve waits and detaches them at its end.`,
		Example: `  rivulet serve nginx --nbd unix:/run/nginx.sock
  qemu-system-x86_64 -drive file=nbd:unix:/run/nginx.sock:exportname=nginx,format=raw ...

  rivulet serve nginx --writable --overlay vm1.overlay --quota 10G

  rivulet serve nginx postgres --nbd tcp:127.0.0.1:10809
  nbd-client 127.0.0.1 10809 /dev/nbd0 -N nginx

  rivulet serve nginx --vhost-user /run/nginx.sock
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=m,size=1G,share=on -machine memory-backend=m \
    -chardev socket,id=c,path=/run/nginx.sock,reconnect=1 -device vhost-user-blk-pci,chardev=c ...`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind, _, _ := strings.Cut(o.address, ":"); o.address != "" && kind != "unix" && kind != "tcp" {
				return usagef("--nbd %q: want unix:PATH or tcp:HOST:PORT", o.address)
			}
			if o.vhostUser != "" && len(args) > 1 {
				return usagef("--vhost-user %s: a socket is one disk, and there are %d images", o.vhostUser, len(args))
			}
			if (o.tlsCert == "") != (o.tlsKey == "") || (o.tlsClientCA != "" && o.tlsCert == "") {
				return usagef("--tls-cert and --tls-key go together, and --tls-client-ca needs both")
			}
			if err := o.telemetry.check(); err != nil {
				return err
			}
			return a.serve(cmd.Context(), args, &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.address, "nbd", "", "where to listen: unix:PATH or tcp:HOST:PORT (default: a socket in the user's runtime folder)")
	f.StringVar(&o.vhostUser, "vhost-user", "", "offer one image over vhost-user-blk, at this socket")
	pollFlag(f, &o.poll)
	f.StringVar(&o.memory, "memory", "256M", "bound of what is kept decoded in memory, for all disks together; an agent has its own")
	a.origin.addFlags(f)
	a.cacheFlag(cmd)
	o.telemetry.addFlags(f)
	o.telemetry.addSlowFlag(f)
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate file (PEM); clients must use TLS then")
	f.StringVar(&o.tlsKey, "tls-key", "", "key file of the certificate (PEM)")
	f.StringVar(&o.tlsClientCA, "tls-client-ca", "", "file of authorities (PEM) that client certificates must come from")
	o.overlay.add(f)
	o.start.add(cmd, "what the image starts by itself")
	f.StringVar(&a.agent, "agent", "", agentHelp)
	f.BoolVar(&o.json, "json", false, "at the end, print what each disk did as a JSON object a line")
	cmd.MarkFlagsMutuallyExclusive("nbd", "vhost-user")
	cmd.MarkFlagsMutuallyExclusive("tls-cert", "vhost-user")
	return cmd
}

type serveOptions struct {
	address, vhostUser, memory   string
	json                         bool
	poll                         time.Duration
	overlay                      overlayFlags
	start                        startFlags
	tlsCert, tlsKey, tlsClientCA string
	telemetry                    telemetryOptions
}

// serve offers the images until ctx ends.
func (a *app) serve(ctx context.Context, names []string, o *serveOptions) error {
	specs, err := a.serveSpecs(names, o)
	if err != nil {
		return err
	}
	holder, done, err := a.serveHolder(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = done() }()
	if _, ok := holder.(*control.Client); ok {
		if err := absolutePaths(specs); err != nil {
			return err
		}
	}
	infos, err := holder.Attach(ctx, specs...)
	if err != nil {
		return err
	}
	for _, i := range infos {
		for uri := range strings.FieldsSeq(i.Address) {
			a.printf("ready %s\n", uri)
		}
	}
	if err := systemd.Notify("READY=1"); err != nil {
		a.note("rivulet: %v", err)
	}
	err = awaitAny(ctx, holder, infos)
	after := context.WithoutCancel(ctx)
	last, listErr := holder.List(after)
	for _, i := range infos {
		err = errors.Join(err, ignoreMissing(holder.Detach(after, i.ID, true, drainTime)))
	}
	if err = errors.Join(err, listErr); err != nil {
		return err
	}
	return a.reportServed(infos, last, o.json)
}

// serveSpecs says what serve attaches, and where.
func (a *app) serveSpecs(names []string, o *serveOptions) ([]host.Spec, error) {
	address, frontend := o.address, frontendNBD
	if o.vhostUser != "" {
		address, frontend = "unix:"+o.vhostUser, frontendVhostUser
	}
	if address == "" {
		var err error
		if address, err = defaultSocket(); err != nil {
			return nil, err
		}
	}
	over, err := o.overlay.overlay()
	if err != nil {
		return nil, err
	}
	if over != nil && over.Dir != "" && len(names) > 1 {
		return nil, usagef("--overlay %s: is of one disk, and there are %d images", o.overlay.dir, len(names))
	}
	var specs []host.Spec
	for _, name := range names {
		s, err := a.spec(name)
		if err != nil {
			return nil, err
		}
		s.Frontend, s.Where, s.Name, s.Overlay = frontend, address, name, over
		if err := o.start.set(&s); err != nil {
			return nil, err
		}
		if o.tlsCert != "" {
			s.TLS = &host.TLS{Certificate: o.tlsCert, Key: o.tlsKey, ClientCA: o.tlsClientCA}
		}
		specs = append(specs, s)
	}
	return specs, nil
}

// absolutePaths makes specs mean the same to a process in another folder.
func absolutePaths(specs []host.Spec) error {
	for i := range specs {
		s := &specs[i]
		var err error
		if s.Where, err = absoluteAddress(s.Where); err != nil {
			return err
		}
		if s.TLS == nil {
			continue
		}
		t := *s.TLS
		for _, path := range []*string{&t.Certificate, &t.Key, &t.ClientCA} {
			if *path == "" {
				continue
			}
			if *path, err = filepath.Abs(*path); err != nil {
				return err
			}
		}
		s.TLS = &t
	}
	return nil
}

// serveHolder chooses who holds the disks: whoever was given sockets by systemd is
// to serve on them.
func (a *app) serveHolder(ctx context.Context, o *serveOptions) (diskHolder, func() error, error) {
	listeners, err := systemd.TakeListeners()
	if err != nil {
		return nil, nil, err
	}
	if len(listeners) == 0 {
		c, err := a.agentClient(ctx)
		if err != nil || c != nil {
			return c, func() error { return nil }, err
		}
	}
	seen, err := a.watch(ctx, o.telemetry)
	if err != nil {
		return nil, nil, err
	}
	h, err := a.newHost(ctx, hostOptions{memory: o.memory, listeners: listeners, seen: seen, poll: o.poll})
	if err != nil {
		seen.close()
		return nil, nil, err
	}
	seen.begin(ctx, nil, h.Unwell)
	return inProcess{h}, func() error {
		seen.close()
		return h.Close()
	}, nil
}

// awaitAny returns when one of the attachments has ended, or ctx, which is no
// error.
func awaitAny(ctx context.Context, holder diskHolder, infos []host.Info) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, i := range infos {
		g.Go(func() error {
			err := holder.Wait(gctx, i.ID)
			if err == nil {
				err = fmt.Errorf("%s was detached", i.Spec.Name)
			}
			return err
		})
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
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

// reportServed says, when all is over, what was read and what that took. last is
// what was attached just before.
func (a *app) reportServed(infos, last []host.Info, asJSON bool) error {
	for _, i := range infos {
		at := slices.IndexFunc(last, func(l host.Info) bool { return l.ID == i.ID })
		if at < 0 || last[at].Reads == nil {
			continue
		}
		st := last[at].Reads
		r := served{Name: i.Spec.Name, Reads: st.Reads, ReadBytes: st.Bytes, Fetches: st.Fetches, FetchedBytes: st.FetchedBytes, Errors: st.Errors}
		if asJSON {
			if err := json.NewEncoder(a.out).Encode(r); err != nil {
				return err
			}
			continue
		}
		a.note("%s: %d reads of %s in all; fetched %s in %d requests to the store; %d errors",
			r.Name, r.Reads, size(r.ReadBytes), size(r.FetchedBytes), r.Fetches, r.Errors)
	}
	return nil
}

// defaultSocket is where serve listens if it is not told.
func defaultSocket() (string, error) {
	dir, err := runtimedir.Make()
	if err != nil {
		return "", err
	}
	return "unix:" + filepath.Join(dir, "nbd.sock"), nil
}
