package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/deploy/node"
)

// nodeOptions say which machine is meant.
type nodeOptions struct {
	host string // folder that is its "/"
	wait bool
}

// nodeCommand installs onto the machine that a container runs on; it is for deploy/kubernetes.
func nodeCommand() *cobra.Command {
	var o nodeOptions
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Install the services on the machine that this container runs on, or remove them",
		Long: `Node installs agent, host cache and snapshotter as services of the machine's systemd,
from a container that has the machine's root folder and its process namespace.
Disks must outlive every container, so they cannot be held in one.`,
		Args: cobra.NoArgs,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.host, "host", "/host", "where the machine's root folder is mounted")
	f.BoolVar(&o.wait, "wait", false, "stay when it is done, until SIGTERM")
	var s node.Settings
	install := &cobra.Command{
		Use:   "install",
		Short: "Install the services, or bring them up to date, and start them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.do(cmd, func(ctx context.Context, n *node.Node) error { return n.Install(ctx, s) })
		},
	}
	install.Flags().StringVar(&s.Snapshotter, "snapshotter-options", "", "options of containerd-rivulet, such as '--own-repository'")
	install.Flags().StringVar(&s.Cache, "cache-options", "", "options of rivulet cached, such as '--size 100G'")
	cmd.AddCommand(install, &cobra.Command{
		Use:   "remove",
		Short: "Stop the services, and remove all that is theirs, unless a disk is in use",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.do(cmd, func(ctx context.Context, n *node.Node) error { return n.Remove(ctx) })
		},
	})
	return cmd
}

func (o *nodeOptions) do(cmd *cobra.Command, fn func(context.Context, *node.Node) error) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	n := &node.Node{Root: o.host, Programs: filepath.Dir(self), Log: log}
	n.Run = func(ctx context.Context, program string, args ...string) error {
		return o.runThere(ctx, log, program, args...)
	}
	if err := fn(cmd.Context(), n); err != nil {
		return err
	}
	log.Info("done")
	if o.wait {
		<-cmd.Context().Done()
	}
	return nil
}

// runThere runs a program of the machine. Its systemctl speaks with its systemd by way of a
// socket in that folder.
func (o *nodeOptions) runThere(ctx context.Context, log *slog.Logger, program string, args ...string) error {
	if !filepath.IsAbs(program) {
		found := ""
		for _, dir := range []string{"/usr/bin", "/bin"} {
			if _, err := os.Stat(filepath.Join(o.host, dir, program)); err == nil {
				found = filepath.Join(dir, program)
				break
			}
		}
		if found == "" {
			return errors.New("the machine has no " + program)
		}
		program = found
	}
	cmd := &exec.Cmd{
		Path: program, Args: append([]string{program}, args...), Dir: "/",
		Env:         []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		SysProcAttr: &syscall.SysProcAttr{Chroot: o.host},
	}
	out, err := runUntil(ctx, cmd)
	if text := strings.TrimSpace(string(out)); text != "" {
		log.Info(filepath.Base(program), "said", text)
	}
	return err
}

// runUntil runs a command that was not made by exec.CommandContext, as that would look for the
// program here, and ends it with ctx.
func runUntil(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err := cmd.Wait()
	return []byte(out.String()), err
}
