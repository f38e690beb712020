package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
)

// readAhead is how far the kernel reads ahead of files in a mount, in bytes:
// its own usual choice, and not the many times more that a loop device may get,
// since what is read ahead has to be fetched.
const readAhead = 128 << 10

// mountOptions are the flags of mount, handed on to the process that serves.
type mountOptions struct {
	file       bool
	foreground bool
	memory     string
	log        string // standard error of a background process, removed at its end if empty
}

func (a *app) mountCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount IMAGE DIR",
		Short: "Mount an image, fetching chunks as they are read",
		Long: `Mount shows the image's disk as a file, by FUSE, attaches that file to a loop
device and mounts it on DIR, read-only. It returns once that is done; a process
in the background serves the reads until 'rivulet umount DIR', or umount(8).

With --file, DIR shows the disk itself, as one file of the image's name. That
needs no root.`,
		Example: `  rivulet mount python3 /mnt
  chroot /mnt python3 -c 'print("hello")'
  rivulet umount /mnt`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !o.file && os.Geteuid() != 0 {
				return fmt.Errorf("mount %s: needs root; 'rivulet mount --file' shows the disk as a file without it", args[1])
			}
			dir, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			if _, err := parseSize(o.memory); err != nil {
				return err
			}
			if _, err := a.origin.parse(true); err != nil {
				return err
			}
			if o.foreground {
				err := a.mount(cmd.Context(), args[0], dir, &o)
				removeIfEmpty(o.log)
				return err
			}
			return a.startMount(cmd.Context(), args[0], dir, &o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.file, "file", false, "show the disk as a file instead of mounting it")
	f.BoolVar(&o.foreground, "foreground", false, "serve in this process, and print \"ready DIR\" when mounted")
	f.StringVar(&o.memory, "memory", "64M", "bound of what is kept decoded in memory; the kernel caches files beside it")
	a.origin.addFlags(f)
	a.cacheFlag(cmd)
	f.StringVar(&o.log, "log", "", "file that standard error goes to; removed at the end if nothing was written")
	_ = f.MarkHidden("log")
	return cmd
}

// mount serves one disk until it is unmounted or ctx ends.
func (a *app) mount(ctx context.Context, ref, dir string, o *mountOptions) error {
	view, err := a.openView(ctx)
	if err != nil {
		return err
	}
	budget, err := parseSize(o.memory)
	if err != nil {
		return err
	}
	d, done, err := a.attach(ctx, view, ref, disk.NewMemory(budget))
	if err != nil {
		return err
	}
	defer func() { _ = done() }()
	show := fuse.Disk{Name: "disk", ID: d.Map().Digest().String(), Device: d}
	if o.file {
		show.Name = filepath.Base(ref)
		return a.showFile(ctx, show, dir)
	}
	return a.mountFiles(ctx, show, dir)
}

// showFile mounts the directory with the disk's file on dir.
func (a *app) showFile(ctx context.Context, show fuse.Disk, dir string) error {
	s, err := fuse.Mount(dir, fuse.Options{})
	if err != nil {
		return err
	}
	if err := s.AddDisk(show); err != nil {
		return errors.Join(err, s.Close())
	}
	a.printf("ready %s\n", dir)
	select {
	case <-s.Done():
		return s.Wait()
	case <-ctx.Done():
		return s.Close()
	}
}

// mountFiles mounts the disk's file system on dir, by way of a file and a loop
// device that nobody else sees.
func (a *app) mountFiles(ctx context.Context, show fuse.Disk, dir string) error {
	// Two on one directory could not be told apart when they are taken down.
	if m, err := loopmount.Find(dir); err == nil {
		return fmt.Errorf("mount %s: %s is mounted there already", dir, m.Device)
	}
	run, err := runtimeDir()
	if err != nil {
		return err
	}
	hidden, err := os.MkdirTemp(run, "disk-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(hidden) }()
	s, err := fuse.Mount(hidden, fuse.Options{})
	if err != nil {
		return err
	}
	if err := s.AddDisk(show); err != nil {
		return errors.Join(err, s.Close())
	}
	m, err := loopmount.Mount(ctx, filepath.Join(hidden, show.Name), dir, loopmount.Options{BlockSize: 4096, ReadAhead: readAhead})
	if err != nil {
		return errors.Join(err, s.Close())
	}
	a.printf("ready %s\n", dir)
	return a.watchMount(ctx, m, s)
}

// watchMount returns when the mount and its server have gone: because somebody
// unmounted it, because the server ended, or because ctx did.
func (a *app) watchMount(ctx context.Context, m *loopmount.Mounted, s *fuse.Session) error {
	watch, stop := context.WithCancel(ctx)
	defer stop()
	unmounted := make(chan error, 1)
	go func() { unmounted <- m.AwaitUnmount(watch) }()
	select {
	case <-s.Done():
		stop()
		err := <-unmounted
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return errors.Join(err, s.Wait())
	case err := <-unmounted: // or ctx has ended
		if ctx.Err() == nil {
			return errors.Join(err, closeWhenFree(s))
		}
	}
	return a.takeDown(context.WithoutCancel(ctx), m, s)
}

// takeDown unmounts because this process was told to end. Whoever uses the
// mount has drainTime to leave; after that it is gone from the tree, and they
// get I/O errors.
func (a *app) takeDown(ctx context.Context, m *loopmount.Mounted, s *fuse.Session) error {
	wait, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	err := m.Unmount(wait)
	for errors.Is(err, loopmount.ErrBusy) && pause(wait) == nil {
		err = m.Unmount(wait)
	}
	if errors.Is(err, loopmount.ErrBusy) {
		a.note("rivulet: %s is in use, and gives I/O errors from now on", m.Dir)
		return errors.Join(m.Detach(), s.Close())
	}
	return errors.Join(err, closeWhenFree(s))
}

// pause waits a moment for something that is about to change; it returns the
// error of ctx once that has ended.
func pause(ctx context.Context) error {
	select {
	case <-time.After(10 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// closeWhenFree ends a session, trying for a while if the loop device still
// has the file open.
func closeWhenFree(s *fuse.Session) error {
	wait, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	err := s.Unmount()
	for errors.Is(err, fuse.ErrBusy) && pause(wait) == nil {
		err = s.Unmount()
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}
