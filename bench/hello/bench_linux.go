package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/internal/scratch"
)

// A bench is what measurements have in common: a folder with the registry's content, the
// network, and what runs all the time.
type bench struct {
	dir       string // kept from run to run
	work      string // of this run
	scratch   *scratch.Folder
	self      string
	publisher string // identity of rivulet, which the stores of disks are named after
	net       *network
	services  []*process // registry and zone
	begun     time.Time
}

// openBench makes the network and starts the registry.
func openBench(ctx context.Context, dir string) (*bench, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("this needs root; bench/run.sh hello says what else")
	}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		return nil, err
	}
	b := &bench{dir: dir, self: self, begun: time.Now()}
	if b.publisher, err = identity("rivulet"); err != nil {
		return nil, err
	}
	if b.scratch, err = scratch.Make(dir, "run"); err != nil {
		return nil, err
	}
	b.work = b.scratch.Path
	if b.net, err = newNetwork(ctx, self); err != nil {
		return nil, errors.Join(err, b.scratch.Remove())
	}
	if err = b.beginRegistry(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// say tells what is going on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0f s  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) close() {
	for _, p := range slices.Backward(b.services) {
		p.stop()
	}
	b.net.close()
	if err := errors.Join(clearFolder(b.work), b.scratch.Remove()); err != nil {
		b.say("%v", err)
	}
}

// beginZone starts the zone's cache nodes, empty.
func (b *bench) beginZone(ctx context.Context) error {
	for _, port := range zonePorts {
		cmd := b.net.inside(context.WithoutCancel(ctx), edge, "redis-server", "--bind", zoneAddress, "--port", fmt.Sprint(port), "--save", "",
			"--protected-mode", "no", "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru")
		p, err := begin(cmd, filepath.Join(b.work, fmt.Sprintf("zone-%d.log", port)))
		if err != nil {
			return err
		}
		b.services = append(b.services, p)
	}
	return nil
}

// A started is a container that is ready, in the hands of a process inside of the host's
// network.
type started struct {
	startAnswer
	cmd  *exec.Cmd
	in   io.WriteCloser
	said *strings.Builder
}

// start has a container started, and returns when it is ready.
func (b *bench) start(ctx context.Context, h *host, r startRequest) (*started, error) {
	r.Socket = h.path("containerd.sock")
	request, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	s := &started{cmd: b.net.inside(ctx, h.role, b.self, "start", "-request", string(request)), said: new(strings.Builder)}
	s.cmd.Stderr = s.said
	// Interrupted, it still takes the container down.
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 10 * time.Second
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &s.startAnswer)
	}
	if err != nil {
		_ = s.in.Close()
		err = errors.Join(err, s.cmd.Wait())
		return nil, fmt.Errorf("%s by %s: %w: %s", r.Reference, r.Snapshotter, err, strings.TrimSpace(s.said.String()))
	}
	return s, nil
}

// end takes the container down.
func (s *started) end() error {
	_ = s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("taking the container down: %w: %s", err, strings.TrimSpace(s.said.String()))
	}
	return nil
}

// measure starts a container, with nothing in the page cache, and notes what that took.
func (b *bench) measure(ctx context.Context, h *host, c *contender, w workload, pull bool) (*started, result, error) {
	r := result{Kind: kindStart, Link: b.net.link.Name, Image: w.Name, Contender: c.Name}
	if !pull {
		r.Kind = kindSecond
	}
	b.net.forget(ctx)
	if err := dropCaches(); err != nil {
		return nil, r, err
	}
	before, err := b.net.traffic(ctx)
	if err != nil {
		return nil, r, err
	}
	requests, err := b.asked()
	if err != nil {
		return nil, r, err
	}
	s, err := b.start(ctx, h, startRequest{Snapshotter: c.Snapshotter, Reference: c.reference(w.Image), Pull: pull, Workload: w})
	if err != nil {
		return nil, r, err
	}
	after, err := b.net.traffic(ctx)
	if err != nil {
		return nil, r, errors.Join(err, s.end())
	}
	now, err := b.asked()
	if err != nil {
		return nil, r, errors.Join(err, s.end())
	}
	r.Pull, r.Create, r.Ready = s.Pull, s.Create, s.Ready
	r.Bytes, r.Up, r.Requests = after.Down-before.Down, after.Up-before.Up, now-requests
	return s, r, nil
}

// beginHost starts all that a contender needs on its host, and containerd.
func (b *bench) beginHost(ctx context.Context, h *host, c *contender) error {
	if c.Begin != nil {
		if err := c.Begin(ctx, b, h); err != nil {
			return err
		}
	}
	return b.beginContainerd(ctx, h)
}
