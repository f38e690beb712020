package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/verify"
)

func (a *app) exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export IMAGE FILE",
		Short: "Write an image's disk to a raw, sparse image file",
		Example: `  rivulet export nginx nginx.img
  mount -o loop nginx.img /mnt`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			image, err := a.open(cmd.Context(), view, args[0])
			if err != nil {
				return err
			}
			var src chunk.Source = image
			if reader, cache := a.throughCache(cmd.Context(), image, image); cache != nil {
				src = checkedSource{reader}
			}
			if err := exportTo(cmd.Context(), args[1], image.Unlocked, src); err != nil {
				return fmt.Errorf("export %s: %w", args[0], err)
			}
			return nil
		},
	}
	a.cacheFlag(cmd)
	return cmd
}

// exportTo writes the disk under a temporary name and renames it when it is
// whole. It replaces nothing but files: not a device, above all.
func exportTo(ctx context.Context, path string, m *blockmap.Map, src chunk.Source) (err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: there is something that is no regular file", path)
	}
	temporary := filepath.Join(filepath.Dir(path), fmt.Sprintf(".rivulet-%016x", rand.Uint64()))
	f, err := os.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := f.Truncate(m.Size()); err != nil {
		return err
	}
	if err := writeChunks(ctx, f, m, src); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writeChunks puts every chunk in its place; holes stay holes.
func writeChunks(ctx context.Context, f *os.File, m *blockmap.Map, src chunk.Source) error {
	info := m.Info()
	return verify.Scan(ctx, m, src, func(_ int, c blockmap.Chunk, plain []byte, err error) error {
		if err == nil {
			_, err = f.WriteAt(plain, int64(c.Index)*info.ChunkSize())
		}
		return err
	})
}
