package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/rivuletfs/rivulet/frontend/kernelnbd"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
	"github.com/rivuletfs/rivulet/host/frontends"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/programpages"
	"github.com/rivuletfs/rivulet/internal/runtimedir"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/telemetry"
)

// The frontends, by the names that they have in a host.Spec.
const (
	frontendNBD       = "nbd"
	frontendVhostUser = "vhost-user"
	frontendFile      = "file"
	frontendMount     = "mount"     // as the host is told
	frontendNBDMount  = "mount-nbd" // in any case
	frontendBlock     = "block"

	frontendKataVolume = "kata-volume"
)

// hostOptions are how a process holds disks.
type hostOptions struct {
	memory          string
	keeper          keep.Keeper    // nil: nothing outlives the process
	state           string         // folder; "": likewise
	listeners       []net.Listener // for NBD, opened by somebody else
	commit          func() error   // as in host.Config
	mounts          string         // how disks are mounted, one of those below; "": auto
	patience        time.Duration  // of mounts by NBD, for the next process
	agent           bool           // nobody is there to be asked for a passphrase
	seen            *watch         // from outside
	poll            time.Duration  // as in vhostuser.Server
	ownProfiles     bool           // as host.Config has them
	profilesPerHour int
}

// How disks are mounted: by FUSE and a loop device, or by the kernel's NBD client.
const (
	mountsAuto = "auto" // by NBD where the others are missing
	mountsFUSE = "fuse"
	mountsNBD  = "nbd"
)

// mountsByNBD tells which.
func mountsByNBD(chosen string) (bool, error) {
	switch chosen {
	case mountsFUSE:
		return false, nil
	case mountsNBD:
		return true, kernelnbd.Supported()
	case mountsAuto, "":
		for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
			if _, err := os.Stat(path); err != nil {
				return kernelnbd.Supported() == nil, nil
			}
		}
		return false, nil
	}
	return false, usagef("--mounts %q: want auto, fuse or nbd", chosen)
}

// maxPoll bounds polling: what waits longer is not worth a processor.
const maxPoll = 10 * time.Millisecond

// pollFlag adds --poll.
func pollFlag(f *pflag.FlagSet, poll *time.Duration) {
	f.DurationVar(poll, "poll", 0, "how long a busy vhost-user ring is looked at, at most, before its machine has to wake us; how long it is follows what pays (50us is much; 0: no polling)")
}

func checkPoll(poll time.Duration) error {
	if poll < 0 || poll > maxPoll {
		return usagef("--poll %v: want 0 to %v", poll, maxPoll)
	}
	return nil
}

// newHost returns a host of this process's own.
func (a *app) newHost(ctx context.Context, o hostOptions) (*host.Host, error) {
	budget, err := parseSize(o.memory)
	if err != nil {
		return nil, err
	}
	if _, err := a.origin.parse(true); err != nil {
		return nil, err
	}
	if err := checkPoll(o.poll); err != nil {
		return nil, err
	}
	byNBD, err := mountsByNBD(o.mounts)
	if err != nil {
		return nil, err
	}
	run, err := runtimedir.Make()
	if err != nil {
		return nil, err
	}
	if o.keeper == nil {
		o.keeper = keep.None{}
	}
	log := a.logger()
	file := func() frontends.File { return frontends.File{Keeper: o.keeper, Logger: log} }
	shown := file()
	kernel := func() *frontends.NBDMount { return &frontends.NBDMount{Patience: o.patience, Logger: log} }
	exports := &frontends.NBD{Keeper: o.keeper, Listeners: o.listeners, Logger: log}
	h, err := host.New(host.Config{
		Open: func(ctx context.Context, url string) (host.Source, error) {
			return a.openSource(ctx, url, &o.seen.origins)
		},
		Unwrappers: func(ctx context.Context, names []string) ([]seal.Unwrapper, error) {
			reads := *a
			if reads.silent = o.agent; len(names) > 0 || o.agent {
				reads.identities = names
			}
			id, err := reads.identity(ctx, false)
			if err != nil {
				return nil, err
			}
			return id.opens, nil
		},
		Spellings: spellings,
		Frontends: map[string]host.Frontend{
			frontendNBD:       exports,
			frontendVhostUser: &frontends.VhostUser{Keeper: o.keeper, Logger: log, Poll: o.poll},
			frontendFile:      &shown,
			frontendMount:     &frontends.Mounts{Loop: &frontends.Mount{File: file(), Runtime: run}, NBD: kernel(), ByNBD: byNBD},
			frontendNBDMount:  kernel(),
			frontendBlock:     &frontends.Block{File: file(), Runtime: run},

			frontendKataVolume: &frontends.KataVolume{Block: frontends.Block{File: file(), Runtime: run}, Volumes: frontends.KataVolumes},
		},
		State: o.state, Commit: o.commit, Quiet: a.releasePages, Memory: budget, Logger: log,
		Cache: a.diskCache(ctx), OnSlow: o.seen.onSlow(), Slow: o.seen.opt.slow,
		OwnProfiles: o.ownProfiles, ProfilesPerHour: o.profilesPerHour,
	})
	if err == nil {
		o.seen.collector = &telemetry.Host{Host: h, Origins: &o.seen.origins, Cache: a.client, NBD: exports.Stats}
	}
	return h, err
}

// releasePages gives back what of the program only its start needed. That it cannot is no
// harm.
func (a *app) releasePages() {
	if err := programpages.Release(); err != nil {
		a.logger().LogAttrs(context.Background(), slog.LevelInfo, "the program stays in memory as a whole", slog.Any("err", err))
	}
}

// spareConnections is how many more than two an image is asked for by at once, when it is opened.
const spareConnections = 14

// openSource opens an origin for a host, and has it counted what that is asked.
func (a *app) openSource(ctx context.Context, url string, count *telemetry.Origins) (host.Source, error) {
	// Whoever opens it reads the states first, and then all of an image at once.
	o, err := a.openURL(ctx, url, store.Options{Ahead: []string{generation.Pointer}, Spare: spareConnections})
	if err != nil {
		return host.Source{}, err
	}
	near := store.Near(url)
	limit, err := a.origin.parse(near)
	if err != nil {
		return host.Source{}, err
	}
	count.Limited(limit)
	view := generation.NewView(count.Counted(o), generation.Options{Logger: a.logger(), OnAlarm: count.Alarm})
	return host.Source{View: view, Near: near, Bound: boundBy(limit)}, nil
}

// spec is ref, as this user reads it, for a process in any folder.
func (a *app) spec(ref string) (host.Spec, error) {
	s := host.Spec{Image: ref}
	var err error
	if s.Store, err = a.absoluteStore(); err != nil {
		return s, err
	}
	if s.Identities, err = a.absoluteIdentities(); err != nil {
		return s, err
	}
	keys, err := publicKeys(a.required)
	for _, k := range keys {
		s.Required = append(s.Required, k.String())
	}
	return s, err
}

// absoluteIdentities returns the chosen identities as a process in any folder
// understands them.
func (a *app) absoluteIdentities() ([]string, error) {
	chosen, err := a.chosenIdentities()
	if err != nil {
		return nil, err
	}
	list := make([]string, len(chosen))
	for i, name := range chosen {
		if !isKMS(name) {
			if name, err = filepath.Abs(name); err != nil {
				return nil, err
			}
		}
		list[i] = name
	}
	return list, nil
}

// A holder of disks is an agent, or this process.
type diskHolder interface {
	Attach(ctx context.Context, specs ...host.Spec) ([]host.Info, error)
	List(ctx context.Context) ([]host.Info, error)
	Wait(ctx context.Context, id string) error
	Detach(ctx context.Context, id string, force bool, wait time.Duration) error
}

// inProcess holds disks in this process.
type inProcess struct{ *host.Host }

var (
	_ diskHolder = inProcess{}
	_ diskHolder = (*control.Client)(nil)
)

func (p inProcess) List(context.Context) ([]host.Info, error) { return p.Host.List(), nil }

func (p inProcess) Detach(ctx context.Context, id string, force bool, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return p.Host.Detach(ctx, id, force)
}

const (
	agentEnvironment = "RIVULET_AGENT"
	noAgent          = "none"
	agentHelp        = "socket of the agent that holds the disk, or \"none\" for a process of its own (default $" +
		agentEnvironment + ", or the user's agent if one runs)"
)

// agentSocket is where the user's agent listens. chosen reports whether the user
// has said so; "" means that no agent is wanted.
func (a *app) agentSocket() (socket string, chosen bool, err error) {
	socket = a.agent
	if socket == "" {
		socket = os.Getenv(agentEnvironment)
	}
	switch socket {
	case noAgent:
		return "", true, nil
	case "":
		run, err := runtimedir.Make()
		return filepath.Join(run, "agent.sock"), false, err
	}
	return socket, true, nil
}

// agentClient returns the agent that should hold disks; nil if this process
// should.
func (a *app) agentClient(ctx context.Context) (*control.Client, error) {
	socket, chosen, err := a.agentSocket()
	if err != nil || socket == "" {
		return nil, err
	}
	c, err := control.Dial(ctx, socket)
	if errors.Is(err, control.ErrNoAgent) {
		if !chosen {
			return nil, nil
		}
		err = fmt.Errorf("%w; start one with 'rivulet agent', or use --agent none", err)
	}
	return c, err
}
