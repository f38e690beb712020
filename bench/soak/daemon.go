package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A daemon is the process of the host cache.
type daemon struct {
	program, dir, zone string
	size               int64

	mu            sync.Mutex
	cmd           *exec.Cmd
	kills, stalls int
}

func (d *daemon) socket() string { return filepath.Join(d.dir, "cached.sock") }

// start starts the process and waits until it is ready.
func (d *daemon) start() error {
	args := []string{"cached", "--dir", filepath.Join(d.dir, "cache"), "--socket", d.socket(), "--size", strconv.FormatInt(d.size, 10), "--min-free", "0", "--origin-requests", "0"}
	if d.zone != "" {
		args = append(args, "--zone", d.zone)
	}
	cmd := exec.Command(d.program, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("%s: said %q, want ready: %w", d.program, line, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cmd = cmd
	return nil
}

// kill ends the process at once.
func (d *daemon) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// trouble kills and freezes the process again and again until ctx ends.
func (d *daemon) trouble(ctx context.Context, rng *rand.Rand) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10*time.Second + between(rng, 10*time.Second)):
		}
		if rng.IntN(2) == 0 {
			d.kills++
			d.kill()
			time.Sleep(between(rng, 2*time.Second))
			if err := d.start(); err != nil {
				return err
			}
			continue
		}
		d.stalls++
		_ = d.cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(between(rng, 4*time.Second))
		_ = d.cmd.Process.Signal(syscall.SIGCONT)
	}
}

// between returns a time from 0 to most.
func between(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(most)))
}

// A use is what a process takes.
type use struct {
	rss, threads, files int64 // RSS in KiB
}

// used reads what the process takes; zeros while there is none.
func used(pid string) (u use) {
	b, _ := os.ReadFile(filepath.Join("/proc", pid, "status"))
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "VmRSS:":
			u.rss, _ = strconv.ParseInt(f[1], 10, 64)
		case "Threads:":
			u.threads, _ = strconv.ParseInt(f[1], 10, 64)
		}
	}
	fds, _ := os.ReadDir(filepath.Join("/proc", pid, "fd"))
	u.files = int64(len(fds))
	return u
}

func (d *daemon) used() use {
	d.mu.Lock()
	defer d.mu.Unlock()
	return used(strconv.Itoa(d.cmd.Process.Pid))
}
