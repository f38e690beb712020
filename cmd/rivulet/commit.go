package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
	"github.com/rivuletfs/rivulet/overlay"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
)

func (a *app) commitCommand() *cobra.Command {
	var opts publish.Options
	var flags publishFlags
	cmd := &cobra.Command{
		Use:   "commit DISK NEW-NAME",
		Short: "Publish a disk with what was written to it as a new image",
		Long: `Commit publishes a writable disk as it is now, as an image of its own. Only the
chunks that were written to are read, encrypted and stored; the others are those
of the image below. DISK is

  ID, NAME or DIR   a disk that the agent holds ('rivulet agent ls'); DIR is where
                    it is mounted
  FOLDER            an overlay that no disk uses now ('rivulet overlay ls')

A disk of the agent can be committed while its guest runs. What is published is
the disk at one moment, as after a power cut: what the guest has not synced is
not there, and its file system's journal is replayed when it is mounted. To have
everything, sync in the guest, or stop it, first.

What starts of the image below have read is handed on: the new image's first start
is read ahead of, too.

The image is locked for you and for whom --recipient names, as by 'rivulet
publish'. The image below must be signed by you or somebody whom you trust.`,
		Example: `  rivulet agent attach nginx --writable --nbd unix:/run/vm1.sock --name vm1
  rivulet commit vm1 nginx-configured

  rivulet serve nginx --writable --overlay vm1.overlay
  rivulet commit vm1.overlay nginx-configured`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Name = args[1]
			if err := catalog.CheckName(opts.Name); err != nil {
				return usageError{err}
			}
			if err := flags.parse(&opts); err != nil {
				return err
			}
			boundMemory()
			opts.Workers = processors()
			r, err := a.commit(cmd.Context(), args[0], &flags, &opts)
			if err != nil {
				return err
			}
			return a.committed(r, flags.json)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.recipients, "recipient", nil, "lock the image for this age1…, ssh-… or arn:aws:kms:… too; may be repeated")
	f.StringArrayVar(&flags.files, "recipients-file", nil, "lock the image for all age and SSH recipients in this file too")
	f.BoolVar(&opts.Open, "open", false, "do not lock the image: whoever can read the store can read it")
	f.StringVar(&flags.domain, "domain", seal.DefaultDomain, "salt domain; in another one than the image below, every chunk is read and stored anew")
	f.StringArrayVar(&flags.trusts, "trust-publisher", nil, "take over chunks of the publisher with this public key or key file; may be repeated")
	f.StringVar(&a.agent, "agent", "", agentHelp)
	f.BoolVar(&flags.json, "json", false, "print the result as JSON, and progress as JSON lines to standard error")
	return cmd
}

// commit finds the disk and publishes it.
func (a *app) commit(ctx context.Context, name string, flags *publishFlags, opts *publish.Options) (*commitment, error) {
	c, done, err := a.frozen(ctx, name)
	if err != nil {
		return nil, err
	}
	defer done()
	store, err := a.openOrigin(ctx, false)
	if err != nil {
		return nil, err
	}
	if err := a.publishKeys(ctx, store, flags, opts); err != nil {
		return nil, err
	}
	bars := a.newProgress(flags.json)
	opts.Progress = bars.event
	defer bars.end()
	r, err := publish.Commit(ctx, store, *c, *opts)
	if err != nil {
		return nil, err
	}
	return &commitment{r, a.inheritQuietly(ctx, store, r.Base, r.BlockMap)}, nil
}

// A commitment is what commit tells.
type commitment struct {
	*publish.Committed
	Inherited []inherited `json:"inherited,omitempty"` // profiles of the image below
}

// frozen returns a disk as it is now, of an overlay's folder or of the agent. done
// lets it go on.
func (a *app) frozen(ctx context.Context, name string) (c *publish.Change, done func(), err error) {
	if i, err := overlay.Inspect(name, nil); err == nil {
		return a.frozenFolder(ctx, name, i)
	}
	client, err := a.agentClient(ctx)
	if err != nil {
		return nil, nil, err
	}
	if client == nil {
		return nil, nil, fmt.Errorf("commit %s: there is no overlay in such a folder, and no agent runs", name)
	}
	infos, err := client.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	id, err := findAttachment(infos, name)
	if err != nil {
		return nil, nil, err
	}
	s, err := client.Snapshot(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	c, err = a.frozenAttachment(ctx, s)
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return c, s.Close, nil
}

// findAttachment finds the one attachment that people call name.
func findAttachment(infos []host.Info, name string) (string, error) {
	found := ""
	for _, i := range infos {
		switch {
		case i.ID == name:
			return name, nil
		case i.Spec.Overlay == nil || (i.Spec.Name != name && !isAt(i, name)):
		case found != "":
			return "", usagef("commit %s: the agent has several writable disks of this name; give an ID ('rivulet agent ls')", name)
		default:
			found = i.ID
		}
	}
	if found == "" {
		return "", usagef("commit %s: neither the folder of an overlay nor a writable disk of the agent ('rivulet agent ls')", name)
	}
	return found, nil
}

// frozenAttachment is the change that s has made. The image below is opened by
// this user, in the store that it was attached from.
func (a *app) frozenAttachment(ctx context.Context, s *control.Snapshot) (*publish.Change, error) {
	chosen, err := a.absoluteStore()
	if err != nil {
		return nil, err
	}
	if a.storeURL != "" && chosen != s.Info.Spec.Store {
		return nil, usagef("--store %s: the disk is of the store %s, and is committed there", chosen, s.Info.Spec.Store)
	}
	a.storeURL = s.Info.Spec.Store
	view, err := a.openView(ctx)
	if err != nil {
		return nil, err
	}
	image, err := a.open(ctx, view, s.Info.Digest)
	if err != nil {
		return nil, err
	}
	return &publish.Change{
		Base: image.Unlocked, Disk: s, Size: s.Size,
		Touched: func(_ context.Context, fn func(off, length int64, zero bool) bool) error {
			for _, r := range s.Changed {
				if !fn(r.Offset, r.Length, r.Zero) {
					break
				}
			}
			return nil
		},
	}, nil
}

// frozenFolder opens the overlay of a folder, over its image.
func (a *app) frozenFolder(ctx context.Context, dir string, i overlay.Info) (c *publish.Change, done func(), err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, nil, err
	}
	view, err := a.openView(ctx)
	if err != nil {
		return nil, nil, err
	}
	image, err := a.open(ctx, view, i.BaseID)
	if err != nil {
		return nil, nil, err
	}
	base, err := a.openDisk(ctx, image, i.BaseID)
	if err != nil {
		return nil, nil, err
	}
	o, err := overlay.Open(dir, base, overlay.Options{BaseID: i.BaseID})
	if errors.Is(err, overlay.ErrInUse) {
		err = fmt.Errorf("%s: a disk uses it; commit that by its name, if the agent has it, or end it first", dir)
	}
	if err != nil {
		return nil, nil, errors.Join(err, base.Close())
	}
	// Whoever has it open has it alone: it stays as it is without a snapshot, whose layer would
	// have to be merged, by writing all of it again.
	return &publish.Change{Base: image.Unlocked, Disk: o, Size: o.Size(), Touched: o.Changed}, func() {
		if err := errors.Join(o.Close(), base.Close()); err != nil {
			a.note("rivulet: the overlay is not as it should be: %v", err)
		}
	}, nil
}

func (a *app) committed(r *commitment, asJSON bool) error {
	if asJSON {
		return a.printJSON(r)
	}
	a.printf("%s\n", r.BlockMap)
	a.note("committed %s: disk of %s, %d chunks, of which %d are those of the image below; new in the store: %d chunks, %s",
		r.Name, size(r.DiskSize), r.Chunks, r.Taken, r.NewChunks, size(r.NewBytes))
	for _, i := range r.Inherited {
		a.note("inherited from the image below: what starts of workload %s read, %d frames", shownWorkload(i.Workload), i.Frames)
	}
	return nil
}
