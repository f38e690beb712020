package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/host"
)

// mountOptions are the flags of mount, handed on to the process that serves.
type mountOptions struct {
	file       bool
	nbd        bool
	foreground bool
	memory     string
	telemetry  telemetryOptions
	start      startFlags
	over       overlayFlags
	log        string // standard error of a background process, removed at its end if empty
}

func (a *app) mountCommand() *cobra.Command {
	var o mountOptions
	cmd := &cobra.Command{
		Use:   "mount IMAGE DIR",
		Short: "Mount an image, fetching chunks as they are read",
		Long: `Mount shows the image's disk as a file, by FUSE, attaches that file to a loop
device and mounts it on DIR, read-only. It returns once that is done; a process
in the background serves the reads until 'rivulet umount DIR', or umount(8). If
an agent runs (see 'rivulet agent'), that serves them, and the mount outlives the
agent's end and its upgrades.

With --writable it is mounted to be written. What is written is private to this
mount, encrypted, and gone when it is unmounted; with --overlay DIR it is kept in
that folder, for the next such mount of the image and for 'rivulet commit'.

With --nbd, the kernel's own NBD client reads the disk, in place of FUSE and a
loop device (needs the nbd module, and Linux 5.14).

With --file, DIR shows the disk itself, as one file of the image's name. That
needs no root.`,
		Example: `  rivulet mount python3 /mnt
  chroot /mnt python3 -c 'print("hello")'
  rivulet umount /mnt

  rivulet mount nginx /mnt --writable --overlay nginx.overlay
  echo 'hello' >/mnt/usr/share/nginx/html/index.html && rivulet umount /mnt
  rivulet commit nginx.overlay nginx-hello`,
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
			if err := errors.Join(o.telemetry.check(), o.start.check()); err != nil {
				return err
			}
			if _, err := o.over.overlay(); err != nil {
				return err
			}
			if o.foreground {
				err := a.mount(cmd.Context(), args[0], dir, &o)
				removeIfEmpty(o.log)
				return err
			}
			c, err := a.agentClient(cmd.Context())
			if err != nil {
				return err
			}
			if c != nil {
				return a.mountByAgent(cmd.Context(), c, args[0], dir, &o)
			}
			return a.startMount(cmd.Context(), args[0], dir, &o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.file, "file", false, "show the disk as a file instead of mounting it")
	f.BoolVar(&o.nbd, "nbd", false, "mount by the kernel's NBD client instead of FUSE and a loop device")
	cmd.MarkFlagsMutuallyExclusive("file", "nbd")
	f.BoolVar(&o.foreground, "foreground", false, "serve in this process, and print \"ready DIR\" when mounted")
	f.StringVar(&o.memory, "memory", "64M", "bound of what is kept decoded in memory; the kernel caches files beside it; an agent has its own")
	a.origin.addFlags(f)
	a.cacheFlag(cmd)
	o.telemetry.addFlags(f)
	o.telemetry.addSlowFlag(f)
	o.start.add(cmd, "what the image starts by itself")
	o.over.add(f)
	f.StringVar(&a.agent, "agent", "", agentHelp)
	f.StringVar(&o.log, "log", "", "file that standard error goes to; removed at the end if nothing was written")
	_ = f.MarkHidden("log")
	return cmd
}

// mountSpec says what mount attaches.
func (a *app) mountSpec(ref, dir string, o *mountOptions) (host.Spec, error) {
	s, err := a.spec(ref)
	if err == nil {
		err = o.start.set(&s)
	}
	if err == nil {
		s.Overlay, err = o.over.overlay()
	}
	s.Frontend, s.Where = frontendMount, dir
	if o.nbd {
		s.Frontend = frontendNBDMount
	}
	if o.file {
		s.Frontend, s.Name = frontendFile, filepath.Base(ref)
	}
	return s, err
}

// mountByAgent has an agent mount the disk.
func (a *app) mountByAgent(ctx context.Context, c diskHolder, ref, dir string, o *mountOptions) error {
	spec, err := a.mountSpec(ref, dir, o)
	if err != nil {
		return err
	}
	infos, err := c.Attach(ctx, spec)
	if err != nil {
		return err
	}
	a.note("mounted %s at %s, served by the agent (attachment %s)", ref, dir, infos[0].ID)
	return nil
}

// mount serves one disk in this process until it is unmounted or ctx ends.
// Whoever uses it then has drainTime to leave.
func (a *app) mount(ctx context.Context, ref, dir string, o *mountOptions) error {
	spec, err := a.mountSpec(ref, dir, o)
	if err != nil {
		return err
	}
	seen, err := a.watch(ctx, o.telemetry)
	if err != nil {
		return err
	}
	defer seen.close()
	h, err := a.newHost(ctx, hostOptions{memory: o.memory, seen: seen})
	if err != nil {
		return err
	}
	seen.begin(ctx, nil, h.Unwell)
	defer func() { _ = h.Close() }() // may take as long as it takes to store what the start has taught
	infos, err := h.Attach(ctx, spec)
	if err != nil {
		return err
	}
	id := infos[0].ID
	unlock, err := lockMount(id, dir)
	if err == nil {
		defer unlock()
		a.printf("ready %s\n", dir)
		if err = h.Wait(ctx, id); ctx.Err() == nil {
			return err
		}
		err = nil
	}
	return errors.Join(err, ignoreMissing(inProcess{h}.Detach(context.WithoutCancel(ctx), id, true, drainTime)))
}
