package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rivuletfs/rivulet/cached/cachedclient"
	"github.com/rivuletfs/rivulet/internal/runtimedir"
)

// startMount runs this program again as the process that serves the mount, and
// returns when that one says that it is mounted, or with its complaint. That
// process keeps nothing of its parent's: not the terminal, not the folder.
func (a *app) startMount(ctx context.Context, ref, dir string, o *mountOptions) error {
	spec, err := a.spec(ref)
	if err != nil {
		return err
	}
	run, err := runtimedir.Make()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.CreateTemp(run, "mount-"+logLabel(dir)+"-*.log")
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	args := []string{"mount", "--foreground", "--store", spec.Store, "--memory", o.memory, "--log", log.Name()}
	args = a.origin.forward(args)
	if args, err = o.telemetry.forward(args); err != nil {
		return err
	}
	args = o.start.forward(args)
	if args, err = o.over.forward(args); err != nil {
		return err
	}
	if o.file {
		args = append(args, "--file")
	}
	if o.nbd {
		args = append(args, "--nbd")
	}
	if a.cache != "" && a.cache != cachedclient.None {
		if a.cache, err = filepath.Abs(a.cache); err != nil {
			return err
		}
	}
	if a.cache != "" {
		args = append(args, "--cache", a.cache)
	}
	for _, name := range spec.Identities {
		args = append(args, "--identity", name)
	}
	for _, key := range spec.Required {
		args = append(args, "--require-signature", key)
	}
	cmd := exec.Command(self, append(args, "--", ref, dir)...)
	cmd.Stderr = log
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // outlives the terminal
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		_ = os.Remove(log.Name())
		return fmt.Errorf("start the mount's process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && strings.HasPrefix(line, "ready ") {
		a.note("mounted %s at %s, served by process %d (log: %s)", ref, dir, cmd.Process.Pid, log.Name())
		return cmd.Process.Release()
	}
	waitErr := cmd.Wait()
	defer func() { _ = os.Remove(log.Name()) }() // its words go to our caller
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return mountFailure(log, waitErr)
}

// logLabel is the part of a mount point's path that its log is named after.
func logLabel(dir string) string {
	name := strings.Trim(filepath.Base(dir), "/")
	return name[:min(len(name), 64)]
}

// removeIfEmpty removes the file that this process's messages went to if there
// were none.
func removeIfEmpty(name string) {
	if info, err := os.Stat(name); err == nil && info.Size() == 0 {
		_ = os.Remove(name)
	}
}

// mountFailure turns what the process wrote before it ended into an error.
func mountFailure(log *os.File, waitErr error) error {
	if _, err := log.Seek(0, io.SeekStart); err != nil {
		return err
	}
	said, err := io.ReadAll(io.LimitReader(log, 16<<10))
	if err != nil {
		return err
	}
	text := strings.TrimPrefix(string(bytes.TrimSpace(said)), "rivulet: ")
	if text == "" {
		return fmt.Errorf("the mount's process ended: %w", waitErr)
	}
	return errors.New(text)
}
