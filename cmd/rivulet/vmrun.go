package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rivuletfs/rivulet/internal/runtimedir"
	"github.com/rivuletfs/rivulet/vm"
	"github.com/rivuletfs/rivulet/vm/guest"
)

type vmRunOptions struct {
	kernel, vmm, accel, memory, init string
	cpus                             int
	bootTime                         time.Duration
	env                              []string
	user, dir, entrypoint, hostname  string
	terminal, console                bool
	nbd                              bool
	overlay                          overlayFlags
	start                            startFlags
	kernelArgs                       []string
	watch                            func(ctx context.Context, d *vmDisk) // ends when the machine is to end; nil: that ends by itself
}

func (a *app) vmRunCommand() *cobra.Command {
	var o vmRunOptions
	cmd := &cobra.Command{
		Use:   "run IMAGE [-- COMMAND...]",
		Short: "Run an image's command in a virtual machine of its own",
		Long: `Run starts a virtual machine whose disk is the image, fetched as it is read, and in
it the image's command, or the one after "--". Standard input, output and errors
are the command's; so is the exit status. What it writes goes to the machine's
memory, and is gone when it ends, unless --writable is given: see 'rivulet serve'.

The machine's first process comes with rivulet (rivulet-init), its kernel out of a
package that you have: see 'rivulet vm kernel'.`,
		Example: `  rivulet vm run python3 -- python3 -c 'print(6 * 7)'
  rivulet vm run --memory 1G --cpus 2 --tty nodejs -- bash
  rivulet vm run --writable --overlay vm1.overlay python3 -- sh -c 'echo kept >/srv/file'`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); len(args) > 1 && n != 1 {
				return usagef("%d arguments: want one image, and its command after \"--\"", len(args))
			}
			return a.vmRun(cmd.Context(), args[0], args[1:], &o)
		},
	}
	a.vmRunFlags(cmd, &o)
	o.start.add(cmd, "the command's program, if one is given, else what the image starts by itself")
	f := cmd.Flags()
	f.BoolVarP(&o.terminal, "tty", "t", false, "give the command a terminal")
	o.overlay.add(f)
	f.StringVar(&a.agent, "agent", "", agentHelp)
	return cmd
}

// vmRunFlags gives a command that runs a machine the flags that say which and how.
func (a *app) vmRunFlags(cmd *cobra.Command, o *vmRunOptions) {
	f := cmd.Flags()
	f.StringVar(&o.kernel, "kernel", "", "version of a kernel, or its folder (default the newest that 'rivulet vm kernel' lists)")
	f.StringVar(&o.vmm, "vmm", "qemu", "what runs the machine: qemu, cloud-hypervisor or firecracker")
	f.StringVar(&o.accel, "accel", vm.AccelAuto, "of QEMU: kvm, tcg (emulation), or auto")
	f.StringVar(&o.memory, "memory", "512M", "memory of the machine")
	f.IntVar(&o.cpus, "cpus", 1, "processors of the machine")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set a variable, NAME=VALUE; NAME alone takes the value from here")
	f.StringVarP(&o.user, "user", "u", "", "run as this user, USER[:GROUP] (default the image's)")
	f.StringVarP(&o.dir, "workdir", "w", "", "run in this folder (default the image's)")
	f.StringVar(&o.entrypoint, "entrypoint", "", "take this program instead of the image's entry point")
	f.StringVar(&o.hostname, "hostname", "rivulet", "name of the machine")
	f.DurationVar(&o.bootTime, "boot-time", vm.DefaultBootTime, "how long the machine may take until the command runs")
	f.BoolVar(&o.console, "console", false, "print what the kernel says, on standard error")
	f.StringArrayVar(&o.kernelArgs, "kernel-arg", nil, "add to the kernel's command line")
	f.StringVar(&o.init, "init", "", "the program rivulet-init (default the one beside this program, or in ../lib/rivulet)")
	f.BoolVar(&o.nbd, "nbd", false, "give QEMU the disk over NBD instead of vhost-user-blk")
	a.origin.addFlags(f)
	a.cacheFlag(cmd)
}

func (a *app) vmRun(ctx context.Context, ref string, args []string, o *vmRunOptions) error {
	a.quiet = true
	if command := args; o.start.workload == "" {
		if o.entrypoint != "" {
			command = []string{o.entrypoint}
		}
		o.start.workload = workloadOf(command)
	}
	m, run, err := a.vmMachine(o)
	if err != nil {
		return err
	}
	if run.Process, err = a.vmProcess(ctx, ref, args, o); err != nil {
		return err
	}
	if run.TempDir, err = runtimedir.Make(); err != nil {
		return err
	}
	drive, disk, err := a.vmDrive(ctx, ref, run.TempDir, o)
	if err != nil {
		return err
	}
	m.Drive = drive
	restore, err := a.vmStreams(ctx, &run, o)
	if err != nil {
		return errors.Join(err, disk.end())
	}
	exit, err := o.run(ctx, disk, m, run)
	restore()
	if err = errors.Join(err, disk.end()); err != nil {
		return err
	}
	if exit.Code != 0 {
		return exitError{status: exit.Code}
	}
	return nil
}

// vmMachine returns the machine, without its disk, and how it is run.
func (a *app) vmMachine(o *vmRunOptions) (vm.Machine, vm.Options, error) {
	var m vm.Machine
	run := vm.Options{Hostname: o.hostname, KernelArgs: o.kernelArgs, BootTime: o.bootTime}
	switch o.vmm {
	case "qemu":
		run.VMM = vm.QEMU{Accel: o.accel}
	case "cloud-hypervisor":
		run.VMM = vm.CloudHypervisor{}
	case "firecracker":
		run.VMM = vm.Firecracker{}
	default:
		return m, run, usagef("--vmm %q: want qemu, cloud-hypervisor or firecracker", o.vmm)
	}
	var err error
	if m.Memory, err = parseSize(o.memory); err != nil {
		return m, run, err
	}
	m.CPUs = o.cpus
	if m.Kernel, err = chosenKernel(o.kernel); err != nil {
		return m, run, err
	}
	run.Init, err = findInit(o.init)
	return m, run, err
}

// initName is the program that is a guest's first process.
const initName = "rivulet-init"

// findInit finds it where it is installed beside this one.
func findInit(chosen string) (string, error) {
	if chosen != "" {
		return chosen, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	dir := filepath.Dir(self)
	for _, path := range []string{filepath.Join(dir, initName), filepath.Join(dir, "..", "lib", "rivulet", initName)} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath(initName); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("program %s is not beside %s: 'make build' makes both; or name it with --init", initName, self)
}

// vmProcess returns what the image, as this user reads it, says is to run.
func (a *app) vmProcess(ctx context.Context, ref string, args []string, o *vmRunOptions) (guest.Process, error) {
	view, err := a.openView(ctx)
	if err != nil {
		return guest.Process{}, err
	}
	image, err := a.open(ctx, view, ref)
	if err != nil {
		return guest.Process{}, err
	}
	env, err := vmEnvironment(o.env)
	if err != nil {
		return guest.Process{}, err
	}
	p, err := vm.Process(image.Unlocked.Info().Config, o.entrypoint, args, env)
	if errors.Is(err, vm.ErrNoCommand) {
		return p, usagef("image %q names no command: give one after \"--\"", ref)
	}
	if o.user != "" {
		p.User = o.user
	}
	if o.dir != "" {
		p.Dir = o.dir
	}
	if o.terminal {
		p.Terminal = &guest.Terminal{}
	}
	return p, err
}

// vmEnvironment gives the variables that are named alone the values that they have
// here; those that have none here are left out.
func vmEnvironment(list []string) ([]string, error) {
	var env []string
	for _, e := range list {
		name, _, set := strings.Cut(e, "=")
		if name == "" {
			return nil, usagef("--env %q: want NAME=VALUE or NAME", e)
		}
		if !set {
			value, ok := os.LookupEnv(name)
			if !ok {
				continue
			}
			e = name + "=" + value
		}
		env = append(env, e)
	}
	return env, nil
}

// A vmDisk is what a machine's disk is attached as. end ends that.
type vmDisk struct {
	holder diskHolder
	id     string
	end    func() error
}

// run runs the machine, as long as watch if there is that.
func (o *vmRunOptions) run(ctx context.Context, d *vmDisk, m vm.Machine, run vm.Options) (guest.Exit, error) {
	if o.watch == nil {
		return vm.Run(ctx, m, run)
	}
	running, end := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer end()
		o.watch(running, d)
	}()
	exit, err := vm.Run(running, m, run)
	if running.Err() != nil && ctx.Err() == nil {
		exit, err = guest.Exit{}, nil // it was ended on purpose
	}
	end()
	<-watched
	return exit, err
}

// vmDrive attaches the image where the machine finds it.
func (a *app) vmDrive(ctx context.Context, ref, dir string, o *vmRunOptions) (drive vm.Drive, disk *vmDisk, err error) {
	spec, err := a.spec(ref)
	if err == nil {
		err = o.start.set(&spec)
	}
	if err != nil {
		return drive, nil, err
	}
	if spec.Overlay, err = o.overlay.overlay(); err != nil {
		return drive, nil, err
	}
	drive.Writable = spec.Overlay != nil
	sockets, err := os.MkdirTemp(dir, "vm-disk-")
	if err != nil {
		return drive, nil, err
	}
	socket := filepath.Join(sockets, "disk")
	spec.Frontend, spec.Where, spec.Name = frontendVhostUser, "unix:"+socket, "disk"
	drive.VhostUser = socket
	if o.nbd {
		spec.Frontend = frontendNBD
		drive.VhostUser, drive.NBD = "", "nbd+unix:///disk?socket="+socket
	}
	holder, done, err := a.serveHolder(ctx, &serveOptions{memory: "256M"})
	if err != nil {
		return drive, nil, errors.Join(err, os.RemoveAll(sockets))
	}
	end := func() error { return errors.Join(done(), os.RemoveAll(sockets)) }
	infos, err := holder.Attach(ctx, spec)
	if err != nil {
		return drive, nil, errors.Join(err, end())
	}
	disk = &vmDisk{holder: holder, id: infos[0].ID}
	disk.end = func() error {
		err := holder.Detach(context.WithoutCancel(ctx), disk.id, true, drainTime)
		return errors.Join(ignoreMissing(err), end())
	}
	return drive, disk, nil
}

// vmStreams connects the process with this program's streams. restore gives the
// terminal back.
func (a *app) vmStreams(ctx context.Context, run *vm.Options, o *vmRunOptions) (restore func(), err error) {
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, a.out, a.err
	if o.console {
		run.Console = a.err
	}
	run.Signals = forwardSignals(ctx)
	if !o.terminal {
		return func() {}, nil
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, usagef("--tty: standard input is not a terminal")
	}
	size, resize := terminalSizes(ctx, fd)
	run.Process.Terminal, run.Resize = &size, resize
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal up: %w", err)
	}
	return func() { _ = term.Restore(fd, state) }, nil
}
