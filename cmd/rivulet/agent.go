package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/credentials"
	"github.com/rivuletfs/rivulet/frontend/nbd"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/runtimedir"
	"github.com/rivuletfs/rivulet/internal/systemd"
)

// How an agent's descriptors are kept.
const (
	keepAuto    = "auto"
	keepSystemd = "systemd"
	keepHolder  = "holder"
	keepNone    = "none"
)

// checkEvery is how often an agent looks after the process that holds its
// descriptors.
const checkEvery = 5 * time.Second

type agentOptions struct {
	state, memory, keep string
	mounts              string
	poll                time.Duration
	hold                time.Duration
	logins              string
	ownProfiles         bool
	profilesPerHour     int
	telemetry           telemetryOptions
}

func (a *app) agentCommand() *cobra.Command {
	var o agentOptions
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Hold disks in one process that can be restarted and upgraded under them",
		Long: `Agent holds the disks of this user, with one memory and one set of keys, for
'rivulet agent attach', 'rivulet serve' and 'rivulet mount'. It prints "ready
SOCKET" when commands can reach it.

What is attached is written down in the state folder. An agent that was killed
and is started again brings it all back: readers of a mount wait meanwhile and
get no error (Linux 6.9 or later), NBD clients find their socket again. That
needs somebody who holds the mounts' descriptors: systemd, if the unit has
FileDescriptorStoreMax=, else a small process that the agent starts. If no agent
comes back within --hold, that lets go, and readers get errors. What is mounted
by the kernel's NBD client (--mounts nbd) waits by itself.

On SIGTERM or SIGINT an agent ends and leaves everything as it is for the next
one; 'rivulet agent detach --all' takes it down. On SIGUSR2, or by 'rivulet agent
upgrade', it hands everything to a new process of the program as it is then on
disk.`,
		Example: `  rivulet agent &
  rivulet agent attach nginx --nbd unix:/run/nginx.sock
  rivulet mount python3 /mnt
  rivulet agent ls
  rivulet agent upgrade`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runAgent(cmd.Context(), &o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "folder that keeps what is attached (default $STATE_DIRECTORY, else in the user's state folder, of root /var/lib/rivulet/agent)")
	f.StringVar(&o.memory, "memory", "256M", "bound of what is kept decoded in memory, for all disks together")
	a.origin.addFlags(f)
	a.cacheFlag(cmd)
	o.telemetry.addFlags(f)
	o.telemetry.addSlowFlag(f)
	f.StringVar(&o.logins, "logins", "", "socket of a snapshotter that knows logins for registries, asked before docker's configuration (default logins.sock in the runtime folder)")
	f.BoolVar(&o.ownProfiles, "own-profiles", false, "keep what starts have taught on this host, and publish it to no store")
	f.IntVar(&o.profilesPerHour, "profiles-per-hour", host.ProfilesPerHour, "how many profiles of starts to publish at most, where the store can be written; more are kept, and go with later ones")
	f.StringVar(&o.keep, "keep", keepAuto, "who keeps descriptors for the next agent: systemd, holder (a process of ours), none; auto is systemd if that says it does, else holder")
	f.StringVar(&o.mounts, "mounts", mountsAuto, "how disks are mounted: fuse (by a file and a loop device) or nbd (by the kernel's client, where it has one); auto is nbd where FUSE or loop devices are missing")
	pollFlag(f, &o.poll)
	f.DurationVar(&o.hold, "hold", 5*time.Minute, "how long a holder, or the kernel's NBD client, waits for the next agent before readers get errors")
	cmd.PersistentFlags().StringVar(&a.agent, "agent", "", "the agent's socket (default $"+agentEnvironment+", or one in the user's runtime folder)")
	_ = cmd.RegisterFlagCompletionFunc("mounts", cobra.FixedCompletions([]string{mountsAuto, mountsFUSE, mountsNBD}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("keep", cobra.FixedCompletions([]string{keepAuto, keepSystemd, keepHolder, keepNone}, cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(a.agentAttachCommand(), a.agentDetachCommand(), a.agentListCommand(), a.agentFillCommand(), a.agentUpgradeCommand(), a.agentHoldCommand())
	return cmd
}

// An agent is the process of that command.
type agent struct {
	*app
	opt     *agentOptions
	socket  string
	program string // that an upgrade starts
	host    *host.Host
	keeper  keep.Keeper
	listen  *net.UnixListener
	seen    *watch
	metrics net.Listener       // of the process before this one; nil: none
	end     context.CancelFunc // ends serving

	upgrades chan os.Signal // asks for one

	upgrading sync.Mutex // held for an upgrade
	passed    bool       // another process has taken over; set before end is called
}

// runAgent is the life of an agent.
func (a *app) runAgent(ctx context.Context, o *agentOptions) error {
	socket, _, err := a.agentSocket()
	if err != nil {
		return err
	}
	if socket == "" {
		return usagef("--agent none: want a socket to listen on")
	}
	if o.state, err = stateFolder(o.state); err != nil {
		return err
	}
	if o.profilesPerHour <= 0 {
		return usagef("--profiles-per-hour %d: want some; --own-profiles publishes none", o.profilesPerHour)
	}
	if a.keychain, err = loginsOf(o.logins); err != nil {
		return err
	}
	g := &agent{app: a, opt: o, socket: socket, upgrades: make(chan os.Signal, 1)}
	if g.seen, err = a.watch(ctx, o.telemetry); err != nil {
		return err
	}
	defer g.seen.close()
	// From the beginning and to the end: unasked for, either would end the process.
	signal.Notify(g.upgrades, syscall.SIGUSR2)
	defer signal.Stop(g.upgrades)
	// Whoever waited for "ready" may have closed our output since.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	if g.program, err = os.Executable(); err != nil {
		return err
	}
	old, err := inheritedUpgrade()
	if err != nil {
		return err
	}
	in, err := g.openKeeper()
	if err != nil {
		return err
	}
	defer func() { _ = g.keeper.Close() }()
	ho := hostOptions{memory: o.memory, keeper: g.keeper, state: o.state, mounts: o.mounts, patience: o.hold, agent: true, seen: g.seen, poll: o.poll, ownProfiles: o.ownProfiles, profilesPerHour: o.profilesPerHour}
	if old != nil {
		ho.commit = func() error { return old.Send(upgradeMessage{Step: stepServing}) }
	}
	if g.host, err = a.newHost(ctx, ho); err != nil {
		return err
	}
	if old != nil {
		if err = g.takeOver(ctx, old, in); err == nil {
			g.seen.begin(ctx, g.metrics, g.host.Unwell)
		}
	} else {
		g.seen.begin(ctx, nil, g.host.Unwell) // and so before all is back
		err = g.start(ctx, in)
	}
	if err != nil {
		return errors.Join(err, g.host.Close())
	}
	return g.serve(ctx)
}

// loginsOf returns who knows logins for registries: whoever listens on that socket, then
// docker's configuration.
func loginsOf(socket string) (authn.Keychain, error) {
	if socket == "" {
		run, err := runtimedir.Make()
		if err != nil {
			return nil, err
		}
		socket = filepath.Join(run, credentials.SocketName)
	}
	return authn.NewMultiKeychain(credentials.NewClient(socket), authn.DefaultKeychain), nil
}

// stateFolder is where an agent writes down what is attached.
func stateFolder(chosen string) (string, error) {
	for _, dir := range []string{chosen, os.Getenv("STATE_DIRECTORY")} {
		if dir != "" {
			return filepath.Abs(dir)
		}
	}
	if base := os.Getenv("XDG_STATE_HOME"); base != "" {
		return filepath.Abs(filepath.Join(base, "rivulet", "agent"))
	}
	if os.Geteuid() == 0 {
		return "/var/lib/rivulet/agent", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no --state, and no home folder to keep it in: %w", err)
	}
	return filepath.Join(home, ".local", "state", "rivulet", "agent"), nil
}

// openKeeper opens what keeps descriptors, and gets those of the agent before.
func (g *agent) openKeeper() (*keep.Inherited, error) {
	passed, err := systemd.Take()
	if err != nil {
		return nil, err
	}
	kind := g.opt.keep
	if kind == keepAuto {
		kind = keepHolder
		if keep.HasSystemd() {
			kind = keepSystemd
		}
	}
	in := &keep.Inherited{}
	switch kind {
	case keepSystemd:
		g.keeper, in = keep.NewSystemd(passed)
	case keepHolder:
		path := strings.TrimSuffix(g.socket, ".sock") + ".hold"
		g.keeper, in, err = keep.NewHolder(path, g.startHolder)
	case keepNone:
		g.keeper = keep.None{}
	default:
		err = usagef("--keep %q: want auto, systemd, holder or none", g.opt.keep)
	}
	return in, err
}

// startHolder starts the process that holds descriptors: in a session of its own,
// with nothing of ours but the socket.
func (g *agent) startHolder(ln *os.File) error {
	cmd := exec.Command(g.program, "agent", "hold", "--hold", g.opt.hold.String())
	cmd.ExtraFiles = []*os.File{ln}
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // outlives us
	return nil
}

func (a *app) agentHoldCommand() *cobra.Command {
	var patience time.Duration
	cmd := &cobra.Command{
		Use:    "hold",
		Short:  "Hold an agent's descriptors (started by the agent)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			a.releasePages()
			// Not with main's context: it outlives signals meant for the agent's
			// terminal or group, and ends by itself.
			return keep.HoldInherited(context.Background(), patience)
		},
	}
	cmd.Flags().DurationVar(&patience, "hold", 5*time.Minute, "how long to wait for an agent")
	return cmd
}

// start brings back what is attached.
func (g *agent) start(ctx context.Context, in *keep.Inherited) error {
	if err := g.host.Recover(ctx, in); err != nil {
		return err
	}
	g.forgetUnused(in)
	ln, err := nbd.Listen("unix:" + g.socket)
	if err != nil {
		return err
	}
	g.listen = ln.(*net.UnixListener)
	if err := os.Chmod(g.socket, 0o600); err != nil {
		return err
	}
	return systemd.Notify("READY=1")
}

// forgetUnused closes descriptors that no attachment took, unless one may yet.
func (g *agent) forgetUnused(in *keep.Inherited) {
	for _, i := range g.host.List() {
		if i.State == host.Waiting {
			return
		}
	}
	for _, name := range in.Close() {
		if err := g.keeper.Forget(name); err != nil {
			g.note("rivulet: %v", err)
		}
	}
}

// serve answers until ctx ends or another process has taken over, and leaves
// everything as it is.
func (g *agent) serve(ctx context.Context) error {
	ctx, g.end = context.WithCancel(ctx)
	defer g.end()
	server := &control.Server{Host: g.host, Version: programVersion(), Upgrade: g.upgrade}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, g.listen) }()
	g.printf("ready %s\n", g.socket)
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		select {
		case <-g.upgrades:
			go func() {
				if _, err := g.upgrade(context.WithoutCancel(ctx)); err != nil {
					g.note("rivulet: %v", err)
				}
			}()
		case <-check.C:
			if h, ok := g.keeper.(*keep.Holder); ok {
				if err := h.Check(); err != nil {
					g.note("rivulet: %v", err)
				}
			}
		case err := <-served:
			if g.passed {
				return errors.Join(err, g.host.Close())
			}
			return errors.Join(err, g.leave())
		}
	}
}

// leave ends serving and leaves everything for the next agent.
func (g *agent) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	list, err := g.host.Release(ctx)
	for _, d := range list {
		_ = d.File.Close()
	}
	return errors.Join(err, g.host.Close())
}
