package zonetest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/internal/freeport"
)

// Programs that Start knows.
const (
	Redis     = "redis-server"
	Valkey    = "valkey-server"
	Memcached = "memcached"
)

// A Process is a server that runs by itself, with an empty memory.
type Process struct {
	program string
	addr    string
	args    []string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process has
}

// Start starts a server for the time of a test. The test is skipped if the program
// is not there, and fails if nothing may be skipped. More arguments are the
// program's own.
func Start(t testing.TB, program string, args ...string) *Process {
	t.Helper()
	p, err := StartProcess(program, args...)
	switch {
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("RIVULET_E2E_STRICT") == "":
		t.Skipf("%s is not installed", program)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

// StartProcess starts a server at a free port of the loopback interface and waits
// until it takes connections. The error is exec.ErrNotFound (wrapped) if the
// program is not installed.
func StartProcess(program string, args ...string) (*Process, error) {
	if _, err := exec.LookPath(program); err != nil {
		return nil, err
	}
	var err error
	for range 5 { // somebody else may take the port
		p := &Process{program: program, args: args}
		if p.addr, err = freeport.Addr(); err != nil {
			return nil, err
		}
		if err = p.Run(); err == nil {
			return p, nil
		}
	}
	return nil, err
}

// Addr returns the server's HOST:PORT.
func (p *Process) Addr() string { return p.addr }

// URL returns the server's address as a zone takes it.
func (p *Process) URL() string {
	if p.program == Memcached {
		return "memcached://" + p.addr
	}
	return strings.TrimSuffix(p.program, "-server") + "://" + p.addr
}

// Run starts a server again that was killed, at the same address.
func (p *Process) Run() error {
	host, port, _ := net.SplitHostPort(p.addr)
	args := []string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no",
		"--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru"}
	if p.program == Memcached {
		args = []string{"-l", host, "-p", port, "-U", "0", "-m", "512", "-u", "nobody"}
	}
	cmd := exec.Command(p.program, append(args, p.args...)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Dir = os.TempDir()
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait() // killing is how it ends
		close(p.ended)
	}()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended: %s", p.program, log.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
	_ = p.Kill()
	return fmt.Errorf("%s does not listen at %s: %s", p.program, p.addr, log.String())
}

// Kill ends the server without a warning. Its memory is lost.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-p.ended
	return err
}

// Freeze stops the server: connections to it are made, and nothing is answered.
func (p *Process) Freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (p *Process) Thaw() error { return p.cmd.Process.Signal(syscall.SIGCONT) }
