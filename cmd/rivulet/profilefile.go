package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/profile"
)

// writeFile has fn write a file, which is whole or not there; - is standard output. It
// replaces nothing but files: not a device, above all.
func (a *app) writeFile(name string, fn func(io.Writer) error) (err error) {
	if name == "-" {
		return fn(a.out)
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: there is something that is no regular file; - is standard output", name)
	}
	temporary := filepath.Join(filepath.Dir(name), fmt.Sprintf(".rivulet-%016x", rand.Uint64()))
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary)
		}
	}()
	if err := errors.Join(fn(f), f.Close()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.Rename(temporary, name)
}

// readProfileFile reads a profile that was exported; - is standard input.
func readProfileFile(name string) (*profile.Profile, error) {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
	}
	b, err := io.ReadAll(io.LimitReader(f, profile.MaxBytes+1))
	var p *profile.Profile
	if err == nil {
		p, err = profile.Parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

func (a *app) writeProfile(name string, p *profile.Profile) error {
	b, err := p.AppendBinary(nil)
	if err != nil {
		return err
	}
	return a.writeFile(name, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

func (a *app) profileExportCommand() *cobra.Command {
	var flags profileFlags
	cmd := &cobra.Command{
		Use:   "export IMAGE FILE",
		Short: "Write a profile to a file",
		Long: `Export writes a profile to a file, as it is in the store; - is standard output.
The file is good for this very image: 'rivulet profile inherit' translates.`,
		Example: `  rivulet profile export nginx nginx.profile
  rivulet profile export nginx - | ssh other rivulet profile import nginx -`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, _, p, err := flags.load(cmd.Context(), a, args[0])
			if err != nil {
				return err
			}
			return a.writeProfile(args[1], p)
		},
	}
	flags.add(cmd, a)
	return cmd
}

func (a *app) profileImportCommand() *cobra.Command {
	var workload string
	cmd := &cobra.Command{
		Use:   "import IMAGE FILE...",
		Short: "Add the starts of exported profiles to an image's",
		Long: `Import merges profiles out of files, in the order given, into those of an image;
- is standard input. They have to be of that very image.`,
		Example:           `  rivulet profile import nginx host-a.profile host-b.profile`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			view, err := a.openView(ctx)
			if err != nil {
				return err
			}
			image, err := a.find(ctx, view, args[0], false)
			if err != nil {
				return err
			}
			var list []*profile.Profile
			for _, name := range args[1:] {
				p, err := readProfileFile(name)
				if err != nil {
					return err
				}
				if err := p.Fits(image.Map); err != nil {
					return fmt.Errorf("%s: %w; 'rivulet profile inherit' translates between images", name, err)
				}
				if cmd.Flags().Changed("workload") {
					p.Workload = workload
				}
				list = append(list, p)
			}
			for _, p := range list {
				d, err := generation.AddProfile(ctx, view.Origin(), p)
				if err != nil {
					return err
				}
				a.printf("%v\n", d)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&workload, "workload", "", "name of what was started (default as in the files)")
	return cmd
}
