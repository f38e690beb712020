package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
)

// runningAgent returns the agent, which must run.
func (a *app) runningAgent(ctx context.Context) (*control.Client, error) {
	socket, _, err := a.agentSocket()
	if err != nil {
		return nil, err
	}
	if socket == "" {
		return nil, usagef("--agent none: want an agent's socket")
	}
	c, err := control.Dial(ctx, socket)
	if errors.Is(err, control.ErrNoAgent) {
		err = fmt.Errorf("%w; start one with 'rivulet agent'", err)
	}
	return c, err
}

// agentAttachments returns the agent, which must run, and what it has attached.
func (a *app) agentAttachments(ctx context.Context) (*control.Client, []host.Info, error) {
	c, err := a.runningAgent(ctx)
	if err != nil {
		return nil, nil, err
	}
	infos, err := c.List(ctx)
	return c, infos, err
}

func (a *app) agentAttachCommand() *cobra.Command {
	var nbdAddress, vhostUser, file, mount, volume, name string
	var asJSON bool
	var over overlayFlags
	var start startFlags
	cmd := &cobra.Command{
		Use:   "attach IMAGE",
		Short: "Have the agent offer a disk: over NBD or vhost-user, as a file, or mounted",
		Long: `Attach has the agent offer the image's disk, and returns when that is done. It
stays attached, over restarts of the agent too, until 'rivulet agent detach', or
until somebody unmounts it.

The agent opens the store and the image itself, with its own credentials and
environment; --store, --identity and --require-signature are handed on.

With --writable, what clients write is kept beside the image, encrypted, in the
agent's state folder, or in that of --overlay, which also outlives the
attachment. It is a disk with a volatile cache: when the power fails, what the
guest has flushed is there. An agent that is killed, or upgraded, loses nothing:
the guest goes on as if it had been slow. See 'rivulet commit'.`,
		Example: `  rivulet agent attach nginx --nbd unix:/run/nginx.sock
  rivulet agent attach nginx --vhost-user /run/nginx.sock
  rivulet agent attach python3 --mount /mnt
  rivulet agent attach python3 --file /disks
  rivulet agent attach models --kata-volume /volumes/models
  rivulet agent attach nginx --writable --nbd unix:/run/vm1.sock --name vm1`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := a.spec(args[0])
			if err != nil {
				return err
			}
			spec.Name = name
			if name == "" {
				spec.Name = args[0]
			}
			if err := chooseFrontend(&spec, nbdAddress, vhostUser, file, mount, volume); err != nil {
				return err
			}
			if spec.Overlay, err = over.overlay(); err != nil {
				return err
			}
			if err := start.set(&spec); err != nil {
				return err
			}
			c, err := a.runningAgent(cmd.Context())
			if err != nil {
				return err
			}
			infos, err := c.Attach(cmd.Context(), spec)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(infos[0])
			}
			a.printf("%s %s\n", infos[0].ID, infos[0].Address)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&nbdAddress, "nbd", "", "offer it over NBD at unix:PATH or tcp:HOST:PORT")
	f.StringVar(&vhostUser, "vhost-user", "", "offer it to a virtual machine over vhost-user-blk, at this socket")
	f.StringVar(&file, "file", "", "show it as a file in this directory")
	f.StringVar(&mount, "mount", "", "mount its file system on this directory (root)")
	f.StringVar(&volume, "kata-volume", "", "give it to Kata Containers as the direct volume of this path in pods' mounts (root)")
	f.StringVar(&name, "name", "", "the export's or file's name (default: the image's)")
	over.add(f)
	start.add(cmd, "what the image starts by itself")
	f.BoolVar(&asJSON, "json", false, "print the attachment as a JSON object")
	cmd.MarkFlagsOneRequired("nbd", "vhost-user", "file", "mount", "kata-volume")
	cmd.MarkFlagsMutuallyExclusive("nbd", "vhost-user", "file", "mount", "kata-volume")
	return cmd
}

// chooseFrontend completes spec by what was asked for, as a process in any folder
// understands it.
func chooseFrontend(spec *host.Spec, nbdAddress, vhostUser, file, mount, volume string) (err error) {
	switch {
	case nbdAddress != "":
		spec.Frontend = frontendNBD
		spec.Where, err = absoluteAddress(nbdAddress)
	case vhostUser != "":
		spec.Frontend = frontendVhostUser
		spec.Where, err = absoluteAddress("unix:" + vhostUser)
	case file != "":
		spec.Frontend, spec.Name = frontendFile, filepath.Base(spec.Name)
		spec.Where, err = filepath.Abs(file)
	case volume != "":
		spec.Frontend = frontendKataVolume
		spec.Where, err = filepath.Abs(volume)
	default:
		spec.Frontend = frontendMount
		spec.Where, err = filepath.Abs(mount)
	}
	return err
}

// absoluteAddress checks an address to listen on, and makes its path absolute.
func absoluteAddress(address string) (string, error) {
	kind, rest, _ := strings.Cut(address, ":")
	switch {
	case kind == "tcp", kind == "unix" && strings.HasPrefix(rest, "@"):
		return address, nil
	case kind == "unix" && rest != "":
		path, err := filepath.Abs(rest)
		return "unix:" + path, err
	}
	return "", usagef("--nbd %q: want unix:PATH or tcp:HOST:PORT", address)
}

func (a *app) agentDetachCommand() *cobra.Command {
	var all, force bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "detach ID|DIR...",
		Short: "Have the agent take disks down",
		Example: `  rivulet agent detach /mnt
  rivulet agent detach --all --force`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all != (len(args) == 0) {
				return errors.New("want the IDs or directories of attachments, or --all")
			}
			return nil
		},
		ValidArgsFunction: a.completeAttachments,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, infos, err := a.agentAttachments(cmd.Context())
			if err != nil {
				return err
			}
			var errs []error
			for _, i := range infos {
				if all {
					args = append(args, i.ID)
				}
			}
			for _, arg := range args {
				errs = append(errs, c.Detach(cmd.Context(), attachmentID(infos, arg), force, wait))
			}
			return errors.Join(errs...)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "every attachment")
	f.BoolVar(&force, "force", false, "also from its users: they get errors")
	f.DurationVar(&wait, "wait", drainTime, "how long to wait for users to leave, at most a minute")
	return cmd
}

// attachmentID finds what people call an attachment: its ID, or where it is.
func attachmentID(infos []host.Info, arg string) string {
	for _, i := range infos {
		if i.ID != arg && isAt(i, arg) {
			return i.ID
		}
	}
	return arg
}

// isAt reports whether an attachment is mounted, or shown, at dir.
func isAt(i host.Info, dir string) bool {
	dir, err := filepath.Abs(dir)
	return err == nil && i.Spec.Frontend != frontendNBD && i.Spec.Where == dir
}

func (a *app) completeAttachments(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var ids []cobra.Completion
	_, infos, _ := a.agentAttachments(cmd.Context())
	for _, i := range infos {
		ids = append(ids, cobra.CompletionWithDesc(i.ID, i.Spec.Image+" "+i.Address))
	}
	return ids, cobra.ShellCompDirectiveDefault
}

func (a *app) agentListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List what the agent has attached",
		Example: `  rivulet agent ls`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, infos, err := a.agentAttachments(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				if infos == nil {
					infos = []host.Info{}
				}
				return a.printJSON(infos)
			}
			w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
			for _, i := range infos {
				where := i.Address
				if where == "" {
					where = i.Spec.Where
				}
				state := string(i.State)
				if i.Problem != "" {
					state += ": " + printable(i.Problem)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.ID, printable(i.Spec.Image), i.Spec.Frontend, printable(where), state)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) agentUpgradeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade",
		Short: "Have the agent hand its disks to a new process of the program on disk",
		Long: `Upgrade has the agent start its program anew, as it is on disk now, and hand it
every disk. Reads wait for a moment and none fails; NBD clients keep their
connections, except over TLS, which must connect again. If the new process cannot
open every disk, the old one goes on.`,
		Example: `  install rivulet /usr/local/bin/rivulet && rivulet agent upgrade`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.runningAgent(cmd.Context())
			if err != nil {
				return err
			}
			u, err := c.Upgrade(cmd.Context())
			if err != nil {
				return err
			}
			a.note("served by process %d from now on", u.PID)
			return nil
		},
	}
}
