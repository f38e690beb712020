package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/internal/fdpass"
	"github.com/rivuletfs/rivulet/internal/systemd"
)

// A live upgrade is a talk of two processes over a socket pair:
//
//	old                                      new
//	starts new ─────────────────────────────► opens every disk of the state folder
//	◄──────────────────────────────── ready ─ (or ends: the old one goes on)
//	stops: requests begun are answered
//	─ descriptor, descriptor, … , all ──────► offers everything again
//	◄────────────────────────────── serving ─ (or ends: the old one takes all back)
//	ends                                     lets NBD clients in
//
// The old process keeps a descriptor of everything until the new one serves.
type upgradeMessage struct {
	Step  string `json:"step"`
	Name  string `json:"name,omitempty"` // of a descriptor
	State []byte `json:"state,omitempty"`
	Text  string `json:"text,omitempty"` // of a failure
}

// Steps of an upgrade.
const (
	stepReady      = "ready"
	stepDescriptor = "descriptor"
	stepAll        = "all"
	stepServing    = "serving"
	stepFailed     = "failed"
)

const (
	// upgradeEnvironment names the descriptor of the socket to the old process.
	upgradeEnvironment = "RIVULET_AGENT_UPGRADE"
	// controlName is the descriptor of the control socket, telemetryName that of the one
	// for telemetry, if there is one.
	controlName   = "control"
	telemetryName = "telemetry"
	// prepareTime bounds the opening of disks by a new process, takeTime the time
	// in which nobody serves, once all requests are answered.
	prepareTime = 2 * time.Minute
	takeTime    = 30 * time.Second
	// releaseTime bounds the answering of what was asked: a disk gives up sooner.
	releaseTime = 2*disk.DefaultTimeout + 5*time.Second
)

// upgrade hands everything to a new process of the program, and ends this one.
func (g *agent) upgrade(ctx context.Context) (pid int, err error) {
	if !g.upgrading.TryLock() {
		return 0, errors.New("upgrade: one is under way")
	}
	defer g.upgrading.Unlock()
	if g.passed {
		return 0, fmt.Errorf("upgrade: another process serves already: %w", host.ErrClosed)
	}
	conn, theirs, err := fdpass.Pair()
	if err != nil {
		return 0, fmt.Errorf("upgrade: %w", err)
	}
	defer func() { _ = conn.Close() }()
	cmd := exec.Command(g.program, os.Args[1:]...)
	cmd.Env = append(os.Environ(), upgradeEnvironment+"=3")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return 0, fmt.Errorf("upgrade: %w", err)
	}
	end := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err = expect(conn, stepReady, prepareTime); err == nil {
		err = g.handOver(ctx, conn, end)
	}
	if err != nil {
		end()
		return 0, fmt.Errorf("upgrade: the old process goes on: %w", err)
	}
	g.passed = true
	g.listen.SetUnlinkOnClose(false)
	g.seen.leave(true)
	if err := systemd.Notify("MAINPID=" + strconv.Itoa(cmd.Process.Pid)); err != nil {
		g.note("rivulet: %v", err)
	}
	pid = cmd.Process.Pid
	_ = cmd.Process.Release()
	g.end()
	return pid, nil
}

// handOver gives everything to the new process, or ends that and takes it back.
func (g *agent) handOver(ctx context.Context, conn *fdpass.Conn, end func()) error {
	releasing, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	list, err := g.host.Release(releasing)
	if errors.Is(err, host.ErrClosed) {
		return err // this process is ending: there is nothing to give, or to take back
	}
	if err != nil {
		g.note("rivulet: upgrade: %v", err) // what was cut off is lost either way
	}
	if control, err := fdpass.Of(g.listen); err == nil {
		list = append(list, keep.Descriptor{Name: controlName, File: control})
	}
	if metrics, err := g.seen.descriptor(); err == nil && metrics != nil {
		list = append(list, keep.Descriptor{Name: telemetryName, File: metrics})
	}
	err = send(conn, list)
	if err == nil {
		err = expect(conn, stepServing, takeTime)
	}
	if err == nil {
		for _, d := range list {
			_ = d.File.Close()
		}
		return nil
	}
	end() // two processes must not read from one descriptor
	back := &keep.Inherited{}
	for _, d := range list {
		back.Add(d)
	}
	err = errors.Join(err, g.host.Resume(ctx, back))
	back.Close()
	return err
}

func send(conn *fdpass.Conn, list []keep.Descriptor) error {
	if err := conn.SetDeadline(time.Now().Add(takeTime)); err != nil {
		return err
	}
	for _, d := range list {
		if err := conn.Send(upgradeMessage{Step: stepDescriptor, Name: d.Name, State: d.State}, d.File); err != nil {
			return err
		}
	}
	return conn.Send(upgradeMessage{Step: stepAll})
}

// expect waits for one step of the other process.
func expect(conn *fdpass.Conn, step string, wait time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	var m upgradeMessage
	files, err := conn.Receive(&m)
	fdpass.CloseAll(files)
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the new process has ended")
	case err != nil:
		return err
	case m.Step == stepFailed:
		return fmt.Errorf("the new process says: %s", m.Text)
	case m.Step != step:
		return fmt.Errorf("the new process is at %q, not at %q", m.Step, step)
	}
	return nil
}

// inheritedUpgrade returns the socket to the process that started this one to take
// it over; nil if none did.
func inheritedUpgrade() (*fdpass.Conn, error) {
	text := os.Getenv(upgradeEnvironment)
	if text == "" {
		return nil, nil
	}
	_ = os.Unsetenv(upgradeEnvironment)
	fd, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("$%s is %q: want a descriptor", upgradeEnvironment, text)
	}
	return fdpass.FromFile(os.NewFile(uintptr(fd), "old process"))
}

// takeOver is the new process's part of an upgrade.
func (g *agent) takeOver(ctx context.Context, old *fdpass.Conn, in *keep.Inherited) error {
	defer func() { _ = old.Close() }()
	err := g.receive(ctx, old, in)
	if err != nil {
		_ = old.SetDeadline(time.Now().Add(time.Second))
		_ = old.Send(upgradeMessage{Step: stepFailed, Text: err.Error()})
	}
	return err
}

func (g *agent) receive(ctx context.Context, old *fdpass.Conn, in *keep.Inherited) error {
	done, err := g.host.Prepare(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := old.Send(upgradeMessage{Step: stepReady}); err != nil {
		return err
	}
	for {
		var m upgradeMessage
		files, err := old.Receive(&m)
		if err != nil {
			return err
		}
		if m.Step == stepAll {
			break
		}
		if len(files) != 1 || m.Step != stepDescriptor {
			fdpass.CloseAll(files)
			return fmt.Errorf("upgrade: unexpected %q with %d descriptors", m.Step, len(files))
		}
		in.Add(keep.Descriptor{Name: m.Name, State: m.State, File: files[0]})
	}
	control, ok := in.Take(controlName)
	if !ok {
		return errors.New("upgrade: no control socket came")
	}
	ln, err := control.File.Listener()
	_ = control.File.Close()
	if err != nil {
		return err
	}
	g.listen = ln.(*net.UnixListener)
	g.listen.SetUnlinkOnClose(true)
	if err := g.inheritTelemetry(in); err != nil {
		return err
	}
	if err := g.host.Recover(ctx, in); err != nil {
		return err
	}
	g.forgetUnused(in)
	return nil
}

// inheritTelemetry takes over the socket for telemetry, if the process before had one
// and this one wants it.
func (g *agent) inheritTelemetry(in *keep.Inherited) error {
	d, ok := in.Take(telemetryName)
	if !ok {
		return nil
	}
	defer func() { _ = d.File.Close() }()
	if g.opt.telemetry.address == "" {
		return nil
	}
	ln, err := d.File.Listener()
	if err != nil {
		return err
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(true)
	}
	g.metrics = ln
	return nil
}
