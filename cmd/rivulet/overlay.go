package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/overlay"
)

// overlayFlags say whether a disk can be written, and where that is kept.
type overlayFlags struct {
	writable         bool
	dir, size, quota string
}

func (o *overlayFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&o.writable, "writable", false, "let the disk be written; what is written is private to it, encrypted, and gone when it is detached or unmounted")
	f.StringVar(&o.dir, "overlay", "", "with --writable, keep what is written in this folder: a new one, or that of an earlier disk of the same image")
	f.StringVar(&o.size, "size", "", "with --writable, make the disk larger, such as 20G; its file system is grown by resize2fs, unmounted")
	f.StringVar(&o.quota, "quota", "", "with --writable, bound of what written blocks may take, such as 5G; beyond it clients get \"no space left\"")
}

// overlay returns what was asked for, nil if the disk cannot be written.
func (o *overlayFlags) overlay() (*host.Overlay, error) {
	if !o.writable {
		if o.dir != "" || o.size != "" || o.quota != "" {
			return nil, usagef("--overlay, --size and --quota need --writable")
		}
		return nil, nil
	}
	spec := &host.Overlay{}
	var err error
	if o.dir != "" {
		if spec.Dir, err = filepath.Abs(o.dir); err != nil {
			return nil, err
		}
		spec.Keep = true
	}
	for _, n := range []struct {
		text string
		to   *int64
	}{{o.size, &spec.Size}, {o.quota, &spec.Quota}} {
		if n.text == "" {
			continue
		}
		if *n.to, err = parseSize(n.text); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// forward adds the flags to args, for a process in another folder.
func (o *overlayFlags) forward(args []string) ([]string, error) {
	spec, err := o.overlay()
	if err != nil || spec == nil {
		return args, err
	}
	args = append(args, "--writable")
	for _, f := range [][2]string{{"--overlay", spec.Dir}, {"--size", o.size}, {"--quota", o.quota}} {
		if f[1] != "" {
			args = append(args, f[0], f[1])
		}
	}
	return args, nil
}

func (a *app) overlayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "overlay",
		Short: "Look at and remove what was written to disks",
		Long: `Overlay is about the folders that 'rivulet serve --writable --overlay DIR', and
'rivulet mount' and 'rivulet agent attach' with these flags, keep: what was written
to a disk, over an image that stays as it is.`,
		Example: `  rivulet overlay ls vm1.overlay
  rivulet overlay rm vm1.overlay`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.overlayListCommand(), a.overlayRemoveCommand())
	return cmd
}

// A listedOverlay is what ls tells of an overlay.
type listedOverlay struct {
	Dir      string `json:"dir"`
	Base     string `json:"base"`      // digest of the disk that it is over
	DiskSize int64  `json:"disk_size"` // bytes
	Layers   int    `json:"layers"`
	Clean    bool   `json:"clean"` // closed in good order
}

func (a *app) overlayListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls DIR...",
		Short:   "Tell which disk overlays are of",
		Example: `  rivulet overlay ls vm1.overlay`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			list := make([]listedOverlay, 0, len(args))
			for _, dir := range args {
				i, err := overlay.Inspect(dir, nil)
				if err != nil {
					return overlayMistake(dir, err)
				}
				list = append(list, listedOverlay{dir, i.BaseID, i.Size, i.Layers, i.Clean})
			}
			if asJSON {
				return a.printJSON(list)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, o := range list {
				state := "clean"
				if !o.Clean {
					state = "in use, or not closed in good order"
				}
				fmt.Fprintf(w, "%s\t%s\tof %s\t%s\n", o.Dir, size(o.DiskSize), o.Base, state)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) overlayRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm DIR...",
		Short: "Erase the keys of overlays, and remove them",
		Long: `Rm erases the key of each overlay first, so that from then on nobody can read
what was written, and then removes its files. An overlay that a disk uses is left
alone.`,
		Example: `  rivulet overlay rm vm1.overlay`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var errs []error
			for _, dir := range args {
				_, err := overlay.Inspect(dir, nil)
				if err == nil || errors.Is(err, overlay.ErrCorrupt) {
					err = overlay.Destroy(dir, overlay.Options{})
				}
				errs = append(errs, overlayMistake(dir, err))
			}
			return errors.Join(errs...)
		},
	}
}

// overlayMistake says what to do about an overlay's error.
func overlayMistake(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: there is no overlay in this folder", dir)
	case errors.Is(err, overlay.ErrInUse):
		return fmt.Errorf("%s: a disk uses it; detach or unmount that first ('rivulet agent ls')", dir)
	}
	return err
}
