package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// newHost returns an empty host for a contender. What its processes say is kept, until the
// next one of that contender.
func (b *bench) newHost(c *contender) (*host, error) {
	h := &host{role: c.Host, dir: filepath.Join(b.work, "hosts", c.Name), logs: filepath.Join(b.dir, "logs", c.Name)}
	if err := errors.Join(clearFolder(h.dir), os.RemoveAll(h.logs), os.MkdirAll(h.logs, 0o755)); err != nil {
		return nil, err
	}
	return h, os.MkdirAll(h.dir, 0o700)
}

// again empties the host of all but what is in the folders that it keeps.
func (h *host) again(keep ...string) error {
	entries, err := os.ReadDir(h.dir)
	for _, e := range entries {
		if !slices.Contains(keep, e.Name()) {
			err = errors.Join(err, clearFolder(h.path(e.Name())))
		}
	}
	return err
}

// begin starts a process on the host.
func (b *bench) begin(ctx context.Context, h *host, name string, env []string, args ...string) (*process, error) {
	cmd := b.net.inside(context.WithoutCancel(ctx), h.role, args...)
	cmd.Env = append(os.Environ(), env...)
	p, err := begin(cmd, filepath.Join(h.logs, name+".log"))
	if err != nil {
		return nil, err
	}
	h.running = append(h.running, p)
	return p, nil
}

// beginContainerd starts containerd on a host, with all snapshotters that any contender uses.
func (b *bench) beginContainerd(ctx context.Context, h *host) error {
	differs := `"walking"`
	if makesErofsOfTar() {
		differs = `"erofs", "walking"`
	}
	config := fmt.Sprintf(containerdConfig, h.dir, differs)
	file := h.path("containerd.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	p, err := b.begin(ctx, h, "containerd", nil, "containerd", "--config", file)
	if err != nil {
		return err
	}
	return await(ctx, 30*time.Second, func() error {
		if err := p.alive(); err != nil {
			return err
		}
		return command(ctx, "ctr", "--address", h.path("containerd.sock"), "version")
	})
}

const containerdConfig = `version = 3
root = "%[1]s/containerd/root"
state = "%[1]s/containerd/state"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "%[1]s/containerd.sock"
[ttrpc]
  address = "%[1]s/containerd.sock.ttrpc"
[plugins."io.containerd.service.v1.diff-service"]
  default = [%[2]s]
[proxy_plugins.rivulet]
  type = "snapshot"
  address = "%[1]s/run/containerd.sock"
[proxy_plugins.stargz]
  type = "snapshot"
  address = "%[1]s/run/stargz.sock"
[proxy_plugins.soci]
  type = "snapshot"
  address = "%[1]s/run/soci.sock"
`

// end stops all that runs on a host, unmounts what is left, and keeps the folders.
func (h *host) end() {
	for _, p := range slices.Backward(h.running) {
		p.stop()
	}
	h.running = nil
	unmountBelow(h.dir)
}

// unmountBelow takes down all mounts in a folder, the last first.
func unmountBelow(dir string) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return // then removing the folder says what is in the way
	}
	lines := strings.Split(string(table), "\n")
	for _, line := range slices.Backward(lines) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			_ = unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
}

// clearFolder removes a folder with all that is in it, mounts too.
func clearFolder(dir string) error {
	unmountBelow(dir)
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	time.Sleep(100 * time.Millisecond) // a mount goes a moment after its last user
	unmountBelow(dir)
	return os.RemoveAll(dir)
}

// dropCaches has the kernel forget all files.
func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}
