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
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !o.file && os.Geteuid() != 0 {
				return fmt.Errorf("mount %s: needs root; 'rivulet mount --file' shows the disk as a file without it", args[1])
			}
			dir, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			if o.foreground {
				return a.mount(cmd.Context(), args[0], dir, &o)
			}
			url, err := a.chosenStore()
			if err != nil {
				return err
			}
			return a.startMount(cmd.Context(), url, args[0], dir, &o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.file, "file", false, "show the disk as a file instead of mounting it")
	f.BoolVar(&o.foreground, "foreground", false, "serve in this process, and print \"ready DIR\" when mounted")
	f.StringVar(&o.memory, "memory", "64M", "bound of what is kept decoded in memory; the kernel caches files beside it")
	return cmd
}

// mount serves one disk until it is unmounted or ctx ends.
func (a *app) mount(ctx context.Context, ref, dir string, o *mountOptions) error {
	store, err := a.openStore(false)
	if err != nil {
		return err
	}
	budget, err := parseSize(o.memory)
	if err != nil {
		return err
	}
	d, err := a.openDisk(ctx, store, ref, disk.NewMemory(budget))
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	show := fuse.Disk{Name: "disk", ID: d.blocks.Digest().String(), Device: d}
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
	unmounted := make(chan error, 1)
	watch, stop := context.WithCancel(ctx)
	go func() { unmounted <- m.AwaitUnmount(watch) }()
	select {
	case <-s.Done():
		stop()
		if err = <-unmounted; errors.Is(err, context.Canceled) {
			err = nil
		}
		return errors.Join(err, s.Wait())
	case err = <-unmounted: // by umount(8), or by us below
	case <-ctx.Done():
		err = <-unmounted
	}
	stop()
	if ctx.Err() != nil {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		err = m.Unmount(wait)
	}
	return errors.Join(err, closeWhenFree(s))
}

// closeWhenFree ends a session, trying for a while if the loop device still
// has the file open.
func closeWhenFree(s *fuse.Session) error {
	deadline := time.Now().Add(drainTime)
	for {
		err := s.Unmount()
		if !errors.Is(err, fuse.ErrBusy) || time.Now().After(deadline) {
			return errors.Join(err, s.Close())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
