package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	containerdlog "github.com/containerd/log"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/rivuletfs/rivulet/credentials"
	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/internal/bytesize"
	"github.com/rivuletfs/rivulet/internal/runtimedir"
	"github.com/rivuletfs/rivulet/internal/systemd"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/snapshotter"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = ""

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// A usageError is a mistake in the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	cmd := command(out, errOut)
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(errOut, "containerd-rivulet: "+strings.TrimSpace(err.Error()))
	if errors.As(err, new(usageError)) {
		fmt.Fprintln(errOut, "Run 'containerd-rivulet --help' for the usage.")
		return exitUsage
	}
	return exitFailed
}

type options struct {
	address, root string
	agent         snapshotter.Agent
	logins        loginOptions
	writable      string
	quota         string
	remapIDs      bool
	room          int64 // of quota
	patience      time.Duration
	fill          bool
	fillRate      string
	level         string
	json          bool
}

func command(out, errOut io.Writer) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "containerd-rivulet",
		Short: "Start containerd's containers from images that have not arrived yet",
		Long: `Containerd-rivulet is a snapshotter for containerd. An image for which one of the
stores has a disk is not downloaded when it is pulled: its containers read the
disk, which the rivulet agent mounts, one mount for all of them. Any other image
is downloaded and unpacked, as by containerd's own overlayfs snapshotter.

It prints "ready ADDRESS" when containerd can reach it. It may be killed and
upgraded at any time: containers go on, as their disks are the agent's. On SIGTERM
or SIGINT it ends.

The agent must run, as root. Where a registry wants a login, agent and snapshotter
use what the kubelet gave with the pull (--image-service), what its plugins say
(--image-credential-provider-config), or docker's configuration ($DOCKER_CONFIG)
and its helpers.

In containerd's configuration:

  [proxy_plugins.rivulet]
    type = "snapshot"
    address = "/run/rivulet/containerd.sock"
    [proxy_plugins.rivulet.exports]
      root = "/var/lib/rivulet/containerd"
      enable_remote_snapshot_annotations = "true"`,
		Example: `  rivulet agent &
  containerd-rivulet --store s3://bucket/images &
  ctr images pull --snapshotter rivulet docker.io/library/nginx:latest`,
		Version:       programVersion(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.serve(cmd.Context(), out, errOut)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.address, "address", "", "socket to listen on (default containerd.sock in the runtime folder, of root /run/rivulet)")
	f.StringVar(&o.root, "root", "/var/lib/rivulet/containerd", "folder of what containers write, of layers that are unpacked, and of mounts")
	f.StringVar(&o.agent.Socket, "agent", "", "the agent's socket (default $RIVULET_AGENT, or agent.sock in the runtime folder)")
	f.StringArrayVar(&o.agent.Stores, "store", nil, "where to look for disks, as the agent opens it: dir:PATH, s3://BUCKET/PREFIX?endpoint=URL, oci://REGISTRY/REPOSITORY or https://HOST/PATH; may be repeated")
	f.BoolVar(&o.agent.OwnRepository, "own-repository", false, "look in the repository, too, that an image is pulled from")
	f.StringArrayVar(&o.agent.Identities, "identity", nil, "file of an age or SSH secret key, or ARN of an AWS KMS key, by which the agent opens locked images; may be repeated (default the agent's own)")
	f.StringArrayVar(&o.agent.Required, "require-signature", nil, "use only disks that the publisher with this public key or key file signed; may be repeated")
	f.StringVar(&o.writable, "writable", string(snapshotter.WritableOverlay), "what containers write to: overlay; disk, one of their own with a quota; or block, the same as a device for a virtual machine")
	f.BoolVar(&o.remapIDs, "remap-ids", false, "map the files of containers with a user namespace of their own by their mounts; containerd's configuration must have capabilities = [\"remap-ids\"]")
	f.StringVar(&o.quota, "quota", "", "bytes that a container may write to its disk, such as 10G (default no bound)")
	o.logins.addFlags(f)
	f.DurationVar(&o.patience, "patience", snapshotter.DefaultPatience, "how long to look for an image's disk, and again to wait for its mount, before the image is unpacked")
	f.BoolVar(&o.fill, "fill", true, "bring all of a disk to the host cache, where there is one, behind all else, when its start is over or has read or waited for much")
	f.StringVar(&o.fillRate, "fill-rate", "", "bound of the stored bytes of a fill in a second, such as 20M (default none)")
	f.StringVar(&o.level, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&o.json, "json", false, "log JSON objects")
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagDirname("root")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.CompletionOptions.HiddenDefaultCmd = false
	cmd.AddCommand(fetchCommand(out), nodeCommand(), manCommand())
	return cmd
}

// manCommand generates the manual page; it is for packagers and "make man".
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual page into a folder",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			root := cmd.Root()
			root.DisableAutoGenTag = true
			f, err := os.Create(filepath.Join(args[0], root.Name()+".1"))
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			fixed := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC) // the same bytes from each run
			return doc.GenMan(root, &doc.GenManHeader{Title: "CONTAINERD-RIVULET", Section: "1", Date: &fixed, Source: "rivulet"}, f)
		},
	}
}

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// stopTime is for how long requests may go on that have begun, when the process ends.
const stopTime = 5 * time.Second

// serve answers containerd until ctx ends.
func (o *options) serve(ctx context.Context, out, errOut io.Writer) (err error) {
	log, err := o.logger(errOut)
	if err != nil {
		return err
	}
	slog.SetDefault(log) // that of containerd's packages
	containerdlog.UseSlog()
	if err := o.complete(); err != nil {
		return err
	}
	keys, err := o.logins.open(o.root, log)
	if err != nil {
		return err
	}
	c := snapshotter.Config{
		Root: o.root, Patience: o.patience, Logger: log, Finder: &o.agent, Mounter: &o.agent,
		Source: source.Options{Keychain: chain(keys)}, Writable: snapshotter.Writable(o.writable), Room: o.room, RemapIDs: o.remapIDs,
	}
	s, err := snapshotter.New(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ln, err := o.listen()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx) // also if something fails below
	g, ctx := errgroup.WithContext(ctx)
	defer func() {
		cancel()
		err = errors.Join(err, g.Wait())
	}()
	if err := o.logins.serve(ctx, g, keys, log); err != nil {
		return errors.Join(err, ln.Close())
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	g.Go(func() error { return server.Serve(ln) })
	g.Go(func() error { o.reach(ctx, log); return nil })
	_, _ = fmt.Fprintf(out, "ready %s\n", o.address)
	if err := systemd.Notify("READY=1"); err != nil {
		log.Warn("the service manager was not told", "err", err)
	}
	<-ctx.Done()
	_ = systemd.Notify("STOPPING=1")
	return endWith(ctx, server)
}

// reach has the agent open the stores. Whatever comes of it, they are opened when an image is pulled.
func (o *options) reach(ctx context.Context, log *slog.Logger) {
	bounded, cancel := context.WithTimeout(ctx, o.patience)
	defer cancel()
	if err := o.agent.Reach(bounded); err != nil && ctx.Err() == nil {
		log.Info("a store cannot be reached yet", "err", err)
	}
}

func (o *options) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return nil, usagef("--log-level %q: want debug, info, warn or error", o.level)
	}
	ho := &slog.HandlerOptions{Level: level}
	if o.json {
		return slog.New(slog.NewJSONHandler(w, ho)), nil
	}
	return slog.New(slog.NewTextHandler(w, ho)), nil
}

// complete fills in what was left out, and makes paths such as the agent
// understands in its own folder.
func (o *options) complete() error {
	switch snapshotter.Writable(o.writable) {
	case snapshotter.WritableOverlay, snapshotter.WritableDisk, snapshotter.WritableBlock:
	default:
		return usagef("--writable %q: want overlay, disk or block", o.writable)
	}
	if o.quota != "" {
		var err error
		if o.room, err = units.RAMInBytes(o.quota); err != nil || o.room <= 0 {
			return usagef("--quota %q: want a number of bytes, or one with K, M, G or T", o.quota)
		}
	}
	if o.patience <= 0 {
		return usagef("--patience %v: want some time", o.patience)
	}
	if o.agent.Socket == "" {
		o.agent.Socket = os.Getenv("RIVULET_AGENT")
	}
	defaults := map[*string]string{&o.agent.Socket: "agent.sock", &o.address: "containerd.sock", &o.logins.socket: credentials.SocketName}
	for path, name := range defaults {
		if *path != "" {
			continue
		}
		run, err := runtimedir.Make()
		if err != nil {
			return err
		}
		*path = filepath.Join(run, name)
	}
	var err error
	if o.agent.Fill, err = o.filling(); err != nil {
		return err
	}
	for i, url := range o.agent.Stores {
		if o.agent.Stores[i], err = absoluteStore(url); err != nil {
			return err
		}
	}
	for i, name := range o.agent.Identities {
		if strings.HasPrefix(name, "arn:") {
			continue
		}
		if o.agent.Identities[i], err = filepath.Abs(name); err != nil {
			return err
		}
	}
	for i, name := range o.agent.Required {
		k, err := sign.FindPublicKey(name)
		if err != nil {
			return usageError{err}
		}
		o.agent.Required[i] = k.String()
	}
	return nil
}

// filling returns what is to be done about the fill of disks; nil: nothing.
func (o *options) filling() (*host.Fill, error) {
	if !o.fill {
		if o.fillRate != "" {
			return nil, usagef("--fill-rate needs --fill")
		}
		return nil, nil
	}
	f := &host.Fill{Optional: true}
	if o.fillRate == "" {
		return f, nil
	}
	var err error
	if f.Rate, err = bytesize.Parse(o.fillRate); err != nil {
		return nil, usagef("--fill-rate: %w", err)
	}
	if f.Rate == 0 {
		return nil, usagef("--fill-rate 0: want at least a byte a second, or --fill=false")
	}
	return f, nil
}

// absoluteStore makes the path of a folder absolute.
func absoluteStore(url string) (string, error) {
	scheme, rest, ok := strings.Cut(url, ":")
	if !ok || rest == "" {
		return "", usagef("--store %q: want dir:PATH, s3://…, oci://… or https://…", url)
	}
	if scheme != "dir" {
		return url, nil
	}
	path, err := filepath.Abs(rest)
	return "dir:" + path, err
}

// listen takes the socket that systemd opened, or opens one, for this user alone.
func (o *options) listen() (net.Listener, error) {
	given, err := systemd.TakeListeners()
	if err != nil {
		return nil, err
	}
	if len(given) > 1 {
		return nil, fmt.Errorf("inherited %d sockets, want one", len(given))
	}
	if len(given) == 1 {
		o.address = given[0].Addr().String()
		return given[0], nil
	}
	return listenPrivately(o.address)
}

func usedError(socket string) error {
	return fmt.Errorf("%s: another snapshotter listens there already", socket)
}
