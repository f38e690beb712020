package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/generation"
)

func (a *app) catCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "cat IMAGE PATH...",
		Short:             "Print files of an image, fetching only what they need",
		Example:           `  rivulet cat nginx /etc/nginx/nginx.conf`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			fsys, done, err := a.openFiles(cmd.Context(), view, args[0])
			if err != nil {
				return err
			}
			defer done()
			for _, p := range args[1:] {
				if err := copyFile(a.out, fsys, inside(p)); err != nil {
					return fmt.Errorf("image %q: %w", args[0], err)
				}
			}
			return nil
		},
	}
	a.cacheFlag(cmd)
	return cmd
}

func copyFile(w io.Writer, fsys *ext4.FS, name string) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = fmt.Errorf("read %s: not a regular file", printable(name))
	}
	if err == nil {
		_, err = io.Copy(w, f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// openFiles opens the file system of an image; done releases it.
func (a *app) openFiles(ctx context.Context, v *generation.View, ref string) (fsys *ext4.FS, done func(), err error) {
	image, err := a.open(ctx, v, ref)
	if err != nil {
		return nil, nil, err
	}
	s, err := a.openDisk(ctx, image, ref)
	if err != nil {
		return nil, nil, err
	}
	fsys, err = ext4.Open(s, s.Size())
	if err != nil {
		_ = s.Close()
		return nil, nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return fsys, func() { _ = s.Close() }, nil
}
