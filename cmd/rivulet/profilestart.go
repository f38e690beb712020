package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/host"
)

func (a *app) profileMarkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mark DISK",
		Short: "Say that a disk's start is over, and have it remembered",
		Long: `Mark ends the start of one of the agent's disks, and has what it read remembered.
Without it, a start is over when nothing has been read for 5 s that had not been read
before, or after 2 minutes. A start that was told to be over counts however little it
read.

DISK is what 'rivulet agent ls' shows: an ID, a directory, an address, an image.`,
		Example: `  rivulet agent attach nginx --vhost-user /run/nginx.sock --workload web
  until curl -s http://guest/ >/dev/null; do sleep 0.1; done
  rivulet profile mark nginx`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeAttachments,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, infos, err := a.agentAttachments(cmd.Context())
			if err != nil {
				return err
			}
			i, err := diskNamed(infos, args[0])
			if err != nil {
				return err
			}
			return c.Mark(cmd.Context(), i.ID)
		},
	}
	cmd.Flags().StringVar(&a.agent, "agent", "", "the agent's socket (default $"+agentEnvironment+", or one in the user's runtime folder)")
	return cmd
}

// A recorded tells of a start that was recorded.
type recorded struct {
	Image    string        `json:"image"`    // digest of its block map
	Workload string        `json:"workload"` // "": what the image starts by itself
	Frames   int           `json:"frames"`   // that the start read
	Bytes    int64         `json:"bytes"`    // that its reads returned
	Took     time.Duration `json:"took_ns"`
}

func (a *app) profileRecordCommand() *cobra.Command {
	var o vmRunOptions
	var workload string
	var packs, asJSON bool
	cmd := &cobra.Command{
		Use:   "record IMAGE [-- COMMAND...]",
		Short: "Run an image once in a virtual machine, to know what its start reads",
		Long: `Record runs the image's command, or the one after "--", in a virtual machine as
'rivulet vm run' does, and adds what it read to the profile at the store: the next
start, on any host, reads ahead by it. It ends with the command, or when the start is
over: when nothing has been read for 5 s that had not been read before, or after 2
minutes. It is for who publishes; hosts that may write to the store record every start
anyway. With --pack what starts read is put into a start pack then; see 'rivulet profile
pack'.`,
		Example: `  rivulet profile record nginx --pack
  rivulet profile record python3 -- python3 -c 'import json'`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); len(args) > 1 && n != 1 {
				return usagef("%d arguments: want one image, and its command after \"--\"", len(args))
			}
			o.start = startFlags{workload: workload, use: string(host.ProfileRecord)}
			r, err := a.profileRecord(cmd.Context(), args[0], args[1:], &o)
			if err != nil {
				return err
			}
			if packs {
				if err := a.packRecorded(cmd.Context(), r); err != nil {
					return err
				}
			}
			if asJSON {
				return a.printJSON(r)
			}
			a.printf("recorded %d frames, of %s read in %s\n", r.Frames, size(r.Bytes), span(r.Took))
			return nil
		},
	}
	a.vmRunFlags(cmd, &o)
	cmd.Flags().StringVar(&workload, "workload", "", "what the profile is of, a name of your choice (default the command's program, if one is given, else what the image starts by itself)")
	cmd.Flags().BoolVar(&packs, "pack", false, "make a start pack of the profile")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was recorded as a JSON object; the command's output goes to standard error")
	return cmd
}

// packRecorded makes the start pack of the profile that a start was added to.
func (a *app) packRecorded(ctx context.Context, r *recorded) error {
	flags := profileFlags{workload: r.Workload}
	image, _, p, err := flags.load(ctx, a, r.Image)
	if err != nil {
		return err
	}
	o, err := a.openOrigin(ctx, false)
	if err != nil {
		return err
	}
	_, err = a.makePack(ctx, o, image, p)
	return err
}

// startLook is how often it is looked whether a start is over.
const startLook = 200 * time.Millisecond

// profileRecord runs a workload until its start is over, and adds that to the profile.
func (a *app) profileRecord(ctx context.Context, ref string, args []string, o *vmRunOptions) (*recorded, error) {
	quiet := *a
	quiet.out = a.err // what the command prints is not what this one does
	quiet.agent = noAgent
	var r recorded
	var own *host.Host
	begun := time.Now()
	o.watch = func(ctx context.Context, d *vmDisk) {
		own = d.holder.(inProcess).Host
		tick := time.NewTicker(startLook)
		defer tick.Stop()
		for over := false; !over; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				over = true
			}
			for _, i := range own.List() {
				if i.ID == d.id && i.Start != nil {
					r = recorded{Image: i.Digest, Workload: i.Start.Workload, Frames: i.Start.Frames, Bytes: i.Served.Bytes, Took: time.Since(begun)}
					over = over || i.Start.Over
				}
			}
		}
	}
	err := quiet.vmRun(ctx, ref, args, o)
	var exit exitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return nil, fmt.Errorf("the command has failed, with status %d; what it read until then is recorded", exit.status)
	}
	if err != nil {
		return nil, err
	}
	if own == nil || own.Stats().Starts.Published == 0 {
		return nil, fmt.Errorf("image %q: the profile could not be added to the store: is it writable?", ref)
	}
	return &r, nil
}
