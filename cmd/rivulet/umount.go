package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/kernelnbd"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
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
			ctx, cancel := context.WithTimeout(cmd.Context(), drainTime)
			defer cancel()
			servers := a.serversOf(ctx, dir)
			defer servers.close()
			if err := umount(ctx, dir); err != nil {
				return err
			}
			if err := servers.await(ctx); err != nil {
				return fmt.Errorf("%s is unmounted, and what served it has not ended: %w", dir, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&a.agent, "agent", "", agentHelp)
	return cmd
}

// mountServers are those that hold what belongs to a mount.
type mountServers struct {
	agent *control.Client // nil: none does that answers
	id    string          // of the agent's attachment
	locks []*os.File      // of processes of the mount's own
}

// serversOf finds who serves the mount at dir.
func (a *app) serversOf(ctx context.Context, dir string) mountServers {
	s := mountServers{locks: mountLocks(dir)}
	c, err := a.agentClient(ctx)
	if err != nil || c == nil {
		return s
	}
	list, err := c.List(ctx)
	if err != nil {
		return s
	}
	if i := slices.IndexFunc(list, func(i host.Info) bool { return i.Spec.Where == dir }); i >= 0 {
		s.agent, s.id = c, list[i].ID
	}
	return s
}

// await waits until they have let go of all that belongs to the mount. Then overlays that are kept can be
// used again, and others are erased.
func (s *mountServers) await(ctx context.Context) error {
	if s.agent != nil {
		if err := s.agent.Wait(ctx, s.id); err != nil {
			return err
		}
	}
	for _, lock := range s.locks {
		if err := awaitUnlock(ctx, lock); err != nil {
			return err
		}
	}
	return nil
}

func (s *mountServers) close() {
	for _, lock := range s.locks {
		_ = lock.Close()
	}
}

// umount takes down what mount put up, whichever process serves it.
func umount(ctx context.Context, dir string) error {
	m, err := loopmount.Find(dir)
	if errors.Is(err, loopmount.ErrNotMounted) || errors.Is(err, syscall.ENOTCONN) {
		return explainUmount(dir, fuse.Unmount(dir)) // a mount of --file, or nothing
	}
	if err != nil {
		return err
	}
	if d, err := kernelnbd.At(m.Device); err == nil && strings.HasPrefix(d.Identity, frontends.NBDIdentity) {
		if err := m.Unmount(ctx); err != nil {
			return explainUmount(dir, err)
		}
		return awaitDisconnect(ctx, d)
	}
	if m.HolderType != fuse.FSType {
		return fmt.Errorf("%s: mounted from %s, not by rivulet", dir, cmp.Or(m.File, m.Device))
	}
	if err := m.Unmount(ctx); err != nil {
		return explainUmount(dir, err)
	}
	return clearHolder(ctx, m.HolderDir)
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
			err := errors.Join(fuse.Unmount(dir), os.Remove(dir))
			if _, gone := os.Lstat(dir); errors.Is(gone, fs.ErrNotExist) { // now, or it has left meanwhile
				return nil
			}
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func explainUmount(dir string, err error) error {
	if errors.Is(err, loopmount.ErrBusy) || errors.Is(err, fuse.ErrBusy) {
		return fmt.Errorf("%s is in use: end what runs in it, or leave the folder, and try again (%w)", dir, err)
	}
	return err
}
