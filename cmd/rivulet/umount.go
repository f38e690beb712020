package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/kernelnbd"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host/frontends"
)

func (a *app) umountCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "umount DIR",
		Short:   "Unmount an image, and end what serves it",
		Example: `  rivulet umount /mnt`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return a.umount(cmd.Context(), dir)
		},
	}
	cmd.Flags().StringVar(&a.agent, "agent", "", agentHelp)
	return cmd
}

// umount takes down what mount put up, and waits until whoever serves it has let go of it: then an overlay that
// is kept can be used again, and another is erased.
func (a *app) umount(ctx context.Context, dir string) error {
	m, err := loopmount.Find(dir)
	if errors.Is(err, loopmount.ErrNotMounted) {
		m, err = nil, nil // a mount of --file, or nothing
	}
	if err != nil {
		return err
	}
	servers := a.serversOf(ctx, dir, m)
	defer servers.close()
	if m == nil {
		err = fuse.Unmount(dir)
	} else {
		err = unmount(ctx, m)
	}
	if errors.Is(err, loopmount.ErrBusy) || errors.Is(err, fuse.ErrBusy) {
		return fmt.Errorf("%s is in use: end what runs in it, or leave the folder, and try again (%w)", dir, err)
	}
	if err != nil {
		return err
	}
	return servers.await(ctx, dir)
}

// unmount unmounts m, whichever process serves it, and clears away what that leaves behind if it has died.
func unmount(ctx context.Context, m *loopmount.Mounted) error {
	device, _ := nbdDevice(m)
	if device == nil && m.HolderType != fuse.FSType {
		return fmt.Errorf("%s: mounted from %s, not by rivulet", m.Dir, cmp.Or(m.File, m.Device))
	}
	_ = m.Sync() // in its own time; whoever wrote it is told by the next who asks
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	if err := m.Unmount(ctx); err != nil {
		return err
	}
	if device != nil {
		return awaitDisconnect(ctx, device)
	}
	return clearHolder(ctx, m.HolderDir)
}

// nbdDevice returns the device of a mount by NBD, and the ID of its attachment; nil for another mount.
func nbdDevice(m *loopmount.Mounted) (d *kernelnbd.Device, id string) {
	d, err := kernelnbd.At(m.Device)
	if err != nil {
		return nil, ""
	}
	id, ours := strings.CutPrefix(d.Identity, frontends.NBDIdentity)
	if !ours {
		return nil, ""
	}
	return d, id
}

// awaitDisconnect waits until a device has gone with its last user.
func awaitDisconnect(ctx context.Context, d *kernelnbd.Device) error {
	for d.Connected() {
		if ctx.Err() != nil {
			return fmt.Errorf("%s is in use elsewhere: %w", d.Path(), ctx.Err())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// clearHolder waits until the server, which sees that the mount is gone, has
// left with the directory that showed the disk. If it died, that falls to us.
func clearHolder(ctx context.Context, dir string) error {
	for {
		_, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if errors.Is(err, syscall.ENOTCONN) || ctx.Err() != nil {
			err := fuse.Unmount(dir)
			if errors.Is(err, fuse.ErrBusy) && ctx.Err() == nil { // the loop device still closes its file
				time.Sleep(10 * time.Millisecond)
				continue
			}
			err = errors.Join(err, os.Remove(dir))
			if _, gone := os.Lstat(dir); errors.Is(gone, fs.ErrNotExist) { // now, or it has left meanwhile
				return nil
			}
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
