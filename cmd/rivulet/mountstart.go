package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// startMount runs this program again as the process that serves the mount, and
// returns when that one says that it is mounted, or with its complaint.
func (a *app) startMount(ctx context.Context, storeURL, ref, dir string, o *mountOptions) error {
	run, err := runtimeDir()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	logName := filepath.Join(run, "mount-"+url.PathEscape(dir)+".log")
	log, err := os.OpenFile(logName, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	args := []string{"mount", "--foreground", "--store", storeURL, "--memory", o.memory}
	if o.file {
		args = append(args, "--file")
	}
	cmd := exec.Command(self, append(args, "--", ref, dir)...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // outlives the terminal
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the mount's process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && strings.HasPrefix(line, "ready ") {
		a.note("mounted %s at %s, served by process %d (log: %s)", ref, dir, cmd.Process.Pid, logName)
		return cmd.Process.Release()
	}
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return mountFailure(log, waitErr)
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
