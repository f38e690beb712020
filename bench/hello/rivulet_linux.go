package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Stores of disks: the same images, published into three repositories. The first is asked for by
// a registry that takes nothing, so that no start of it is remembered. Each build of rivulet has
// its own, and so measures nothing that another one has made.
const (
	storeCold    = "cold"
	storeProfile = "profile"
	storePack    = "pack"
)

// How a host is set up, besides the usual.
const (
	withoutCache = 1 << iota // no host cache
	withZone                 // a host cache that asks the zone's
)

// zonePorts are those of the zone's cache nodes.
var zonePorts = []int{6401, 6402, 6403, 6404, 6405}

func zoneURL() string {
	var b bytes.Buffer
	for i, port := range zonePorts {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s:%d", zoneAddress, port)
	}
	return "redis://" + b.String()
}

// repository is a store's in the registry.
func (b *bench) repository(store string) string { return "rivulet/" + b.publisher + "/" + store }

// storeURL is the address of a store on a host.
func (b *bench) storeURL(store string) string {
	port := registryPort
	if store == storeCold {
		port = readOnlyPort
	}
	return fmt.Sprintf("oci://%s:%d/%s?insecure=true", serverAddress, port, b.repository(store))
}

// environment is that of a host's rivulet processes.
func (b *bench) environment(h *host) []string {
	return []string{
		"RIVULET_KEYS=" + filepath.Join(b.dir, "keys"), "XDG_RUNTIME_DIR=" + h.path("run"), "XDG_STATE_HOME=" + h.path("state"),
		"RIVULET_CACHED=" + h.path("run/cached.sock"), "RIVULET_AGENT=" + h.path("run/agent.sock"),
	}
}

// beginRivulet returns what starts host cache, agent and snapshotter, with the store of images.
func beginRivulet(store string, how int) func(context.Context, *bench, *host) error {
	return func(ctx context.Context, b *bench, h *host) error {
		if err := os.MkdirAll(h.path("run"), 0o700); err != nil {
			return err
		}
		env, url := b.environment(h), b.storeURL(store)
		agent := []string{"rivulet", "--store", url, "agent", "--state", h.path("agent"), "--keep", "none"}
		if how&withoutCache != 0 {
			agent = append(agent, "--cache", "none")
		} else {
			cached := []string{"rivulet", "cached", "--dir", h.path("cache"), "--size", "8G", "--min-free", "1%"}
			if how&withZone != 0 {
				cached = append(cached, "--zone", zoneURL())
			}
			if err := b.beginReady(ctx, h, "cached", env, cached...); err != nil {
				return err
			}
		}
		if err := b.beginReady(ctx, h, "agent", env, agent...); err != nil {
			return err
		}
		return b.beginReady(ctx, h, "snapshotter", env, "containerd-rivulet", "--root", h.path("snapshotter"), "--store", url,
			"--address", h.path("run/containerd.sock"))
	}
}

// beginReady starts a process that says "ready" when it is.
func (b *bench) beginReady(ctx context.Context, h *host, name string, env []string, args ...string) error {
	p, err := b.begin(ctx, h, name, env, args...)
	if err != nil {
		return err
	}
	return p.awaitLine(ctx, "ready")
}

// serverStore is the address of a store where the registry is.
func (b *bench) serverStore(store string) string {
	return fmt.Sprintf("oci://127.0.0.1:%d/%s?insecure=true", registryPort, b.repository(store))
}

// rivulet runs a command where the registry is, so without the link.
func (b *bench) rivulet(ctx context.Context, store string, args ...string) ([]byte, error) {
	cmd := b.net.inside(ctx, server, append([]string{"rivulet", "--store", b.serverStore(store)}, args...)...)
	cmd.Env = append(os.Environ(), "RIVULET_KEYS="+filepath.Join(b.dir, "keys"), "XDG_RUNTIME_DIR="+b.work)
	return output(cmd)
}

// publish makes the disk of an image of the layout in a store.
func (b *bench) publish(ctx context.Context, store, layout, image string) error {
	_, err := b.rivulet(ctx, store, "publish", "oci:"+layout+":"+image, "--name", image)
	return err
}

// kept waits until the start that an agent records is in the store.
func (b *bench) kept(ctx context.Context, h *host) error {
	return await(ctx, 30*time.Second, func() error {
		cmd := b.net.inside(ctx, h.role, "rivulet", "agent", "ls", "--json")
		cmd.Env = append(os.Environ(), b.environment(h)...)
		out, err := output(cmd)
		if err != nil {
			return err
		}
		var disks []struct {
			Start struct {
				Kept string `json:"kept"`
			} `json:"start"`
		}
		if err := json.Unmarshal(out, &disks); err != nil {
			return err
		}
		if len(disks) != 1 || disks[0].Start.Kept != "origin" {
			return fmt.Errorf("the start was not kept: %s", out)
		}
		return nil
	})
}

// packed makes the start pack of an image, and returns its size: what a start needs, as it is stored.
func (b *bench) packed(ctx context.Context, image string) (int64, error) {
	out, err := b.rivulet(ctx, storePack, "profile", "pack", image, "--json")
	if err != nil {
		return 0, err
	}
	var made struct {
		Bytes int64 `json:"bytes"`
	}
	return made.Bytes, json.Unmarshal(out, &made)
}
