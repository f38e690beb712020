package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile/inherit"
	"github.com/rivuletfs/rivulet/publish"
)

// Bounds of what publish inherits: nobody waits for more.
const (
	inheritTime      = 30 * time.Second
	inheritWorkloads = 16
)

// An inherited is a profile that an image got from the one before.
type inherited struct {
	Workload string `json:"workload"`
	Version  string `json:"version"`
	Frames   int    `json:"frames"`
	Of       int    `json:"of"` // frames of the old profile
}

func (a *app) profileInheritCommand() *cobra.Command {
	var workload string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inherit OLD NEW",
		Short: "Translate the profiles of one image to another",
		Long: `Inherit gives an image the profiles of another one, as a rule the version before:
by chunks that both have, and by the paths of files. Workloads of which the
new image has a profile are left out. Publishing does this by itself when a name
moves to another image.`,
		Example: `  rivulet profile inherit nginx:1.28 nginx:1.29
  rivulet profile inherit sha256:… nginx --workload nginx-debug`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeImages(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			view, err := a.openView(ctx)
			if err != nil {
				return err
			}
			var images [2]*generation.Image
			for i, ref := range args {
				if images[i], err = a.find(ctx, view, ref, false); err != nil {
					return err
				}
			}
			h := &heirs{app: a, view: view, old: images[0], new: images[1]}
			list, err := h.inherit(ctx, func(w string) bool { return !cmd.Flags().Changed("workload") || w == workload })
			if asJSON {
				return errors.Join(a.printJSON(list), err)
			}
			for _, i := range list {
				a.printf("%s: %d frames, of %d\n", shownWorkload(i.Workload), i.Frames, i.Of)
			}
			if err == nil && len(list) == 0 {
				a.note("rivulet: nothing to inherit: %s has no profile of a workload of which %s has none", args[0], args[1])
			}
			return err
		},
	}
	cmd.Flags().StringVar(&workload, "workload", "", "of this workload alone; empty for what the image starts by itself")
	a.completeWorkloads(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// heirs are two images of which one inherits from the other.
type heirs struct {
	app      *app
	view     *generation.View
	old, new *generation.Image
}

// inherit translates the old image's profiles of the workloads chosen that the new
// one has none of, and returns those that came to something.
func (h *heirs) inherit(ctx context.Context, chosen func(workload string) bool) ([]inherited, error) {
	list := []inherited{}
	from, err := h.view.Profiles(ctx, h.old.Map.Digest())
	if err != nil && !errors.Is(err, catalog.ErrProfile) {
		return list, err
	}
	faults := []error{err}
	old, closeOld := h.disk(h.old)
	defer closeOld()
	new, closeNew := h.disk(h.new)
	defer closeNew()
	for _, at := range from {
		if !chosen(at.Workload) {
			continue
		}
		i, err := h.inheritOne(ctx, at.Workload, old, new)
		if err != nil {
			faults = append(faults, err)
		} else if i != nil {
			list = append(list, *i)
		}
	}
	return list, errors.Join(faults...)
}

// inheritOne returns nil if the new image has a profile of the workload already.
func (h *heirs) inheritOne(ctx context.Context, workload string, old, new inherit.Disk) (*inherited, error) {
	there, err := h.view.Profile(ctx, h.new.Map.Digest(), workload)
	if (err != nil || !there.Predicted) && !errors.Is(err, chunk.ErrNotFound) && !errors.Is(err, catalog.ErrProfile) {
		return nil, err
	}
	p, err := h.view.Profile(ctx, h.old.Map.Digest(), workload)
	if err != nil {
		return nil, err
	}
	if p.Predicted { // the new image's files say it better
		return nil, nil
	}
	n, err := inherit.Profile(ctx, p, old, new)
	if err != nil {
		return nil, err
	}
	d, err := generation.AddProfile(ctx, h.view.Origin(), n)
	if err != nil {
		return nil, err
	}
	return &inherited{Workload: workload, Version: d.String(), Frames: len(n.Entries), Of: len(p.Entries)}, nil
}

// disk returns an image's disk, which is opened when its files are first asked for;
// done closes it.
func (h *heirs) disk(i *generation.Image) (d inherit.Disk, done func()) {
	var opened *host.Disk
	var fsys *ext4.FS
	ref := i.Map.Digest().String()
	files := func(ctx context.Context) (*ext4.FS, error) {
		if fsys != nil {
			return fsys, nil
		}
		image, err := h.app.open(ctx, h.view, ref)
		if err != nil {
			return nil, err
		}
		if opened == nil {
			if opened, err = h.app.openDisk(ctx, image, ref); err != nil {
				return nil, err
			}
		}
		ahead := &readAhead{ReaderAt: opened, device: opened, ctx: ctx}
		if fsys, err = ext4.Open(ahead, opened.Size()); err != nil {
			return nil, fmt.Errorf("image %q: %w", ref, err)
		}
		return fsys, nil
	}
	return inherit.Disk{Map: i.Map, Files: files}, func() {
		if opened != nil {
			_ = opened.Close()
		}
	}
}

// A publication is what publish tells.
type publication struct {
	*publish.Result
	Converted string      `json:"converted,omitempty"` // image, as REPOSITORY:TAG@DIGEST
	Inherited []inherited `json:"inherited,omitempty"` // profiles of the name's image before
	Predicted *predicted  `json:"predicted,omitempty"` // profile of a start that nobody has seen
	Imports   int         `json:"imports,omitempty"`   // frames of the plan that imports of packages read
}

// inheritAfter gives an image that was just published under a name what starts of
// the name's image before have read. What fails is told, and no failure.
func (a *app) inheritAfter(ctx context.Context, o origin.Origin, r *publish.Result) []inherited {
	if !r.Profiled {
		return nil
	}
	return a.inheritQuietly(ctx, o, r.Previous, r.BlockMap)
}

// inheritQuietly gives an image, by its block map's digest, the profiles of another one.
// What fails is told, and no failure.
func (a *app) inheritQuietly(ctx context.Context, o origin.Origin, old, new string) []inherited {
	ctx, cancel := context.WithTimeoutCause(ctx, inheritTime, fmt.Errorf("it took longer than %v", inheritTime))
	defer cancel()
	list, err := a.inheritPrevious(ctx, o, old, new)
	if err != nil && !errors.Is(err, chunk.ErrNotFound) { // or the image before is gone
		a.note("rivulet: not all was inherited of what starts of the image before have read: %v", err)
	}
	return list
}

func (a *app) inheritPrevious(ctx context.Context, o origin.Origin, old, new string) ([]inherited, error) {
	view := a.view(o)
	a.hostCache(ctx) // before the copy: it is closed with a
	as := *a
	as.silent, as.required = true, nil // nobody waits for this, or trusts it
	var err error
	h := &heirs{app: &as, view: view}
	if h.old, err = view.Open(ctx, old); err != nil {
		return nil, err
	}
	if h.new, err = view.Open(ctx, new); err != nil {
		return nil, err
	}
	n := 0
	return h.inherit(ctx, func(string) bool { n++; return n <= inheritWorkloads })
}
