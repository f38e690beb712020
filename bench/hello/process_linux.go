package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// run runs a command; its error has what the command said.
func run(cmd *exec.Cmd) error {
	_, err := output(cmd)
	return err
}

// output runs a command and returns what it printed.
func output(cmd *exec.Cmd) ([]byte, error) {
	var said bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &said
	}
	out, err := cmd.Output()
	if err != nil {
		text := strings.TrimSpace(said.String() + "\n" + string(out))
		if len(text) > 600 {
			text = "… " + text[len(text)-600:]
		}
		return out, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, text)
	}
	return out, nil
}

func command(ctx context.Context, name string, args ...string) error {
	return run(exec.CommandContext(ctx, name, args...))
}

// A process runs beside the measurement until it is stopped.
type process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// begin starts cmd, with what it says in a log. Who begins it
// stops it: if this program is killed, it goes on until its namespace of processes ends.
func begin(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own, so that an interrupt of the terminal is this program's to answer.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", strings.Join(cmd.Args, " "), err)
	}
	p := &process{cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // by a signal, mostly
		close(p.ended)
	}()
	return p, nil
}

// alive is an error if the process has ended.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended: %s", p.cmd.Args[len(p.cmd.Args)-1], tail(p.log))
	default:
		return nil
	}
}

// awaitLine waits until the log has a line that begins so.
func (p *process) awaitLine(ctx context.Context, prefix string) error {
	return await(ctx, 30*time.Second, func() error {
		if err := p.alive(); err != nil {
			return err
		}
		text, err := os.ReadFile(p.log)
		if err == nil && !bytes.Contains(append([]byte("\n"), text...), []byte("\n"+prefix)) {
			err = fmt.Errorf("%s: no line %q: %s", strings.Join(p.cmd.Args, " "), prefix, tail(p.log))
		}
		return err
	})
}

// stop ends the process, by force after some seconds, and waits for it.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}

// kill ends the process at once.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// await calls ok until it returns no error; the last one is the result after limit.
func await(ctx context.Context, limit time.Duration, ok func() error) error {
	end := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %v: %w", limit, err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// tail returns the end of a log.
func tail(log string) string {
	text, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	if len(text) > 800 {
		text = text[len(text)-800:]
	}
	return strings.TrimSpace(string(text))
}
