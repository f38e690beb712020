package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

var stargzTools = []string{"containerd-stargz-grpc", "ctr-remote"}

// beginStargz starts stargz-snapshotter, set up as it comes, for a registry without TLS.
func beginStargz(ctx context.Context, b *bench, h *host) error {
	registry := fmt.Sprintf("%s:%d", serverAddress, registryPort)
	config := fmt.Sprintf("[[resolver.host.%q.mirrors]]\nhost = %q\ninsecure = true\n", registry, registry)
	return b.beginProxy(ctx, h, "stargz", config, "containerd-stargz-grpc")
}

// beginSOCI starts soci-snapshotter likewise.
func beginSOCI(ctx context.Context, b *bench, h *host) error {
	registry := fmt.Sprintf("%s:%d", serverAddress, registryPort)
	config := fmt.Sprintf("[resolver]\n[resolver.host]\n[resolver.host.%q]\n[[resolver.host.%q.mirrors]]\nhost = \"http://%s\"\ninsecure = true\n"+
		"[content_store]\ntype = \"containerd\"\ncontainerd_address = %q\n[cri_keychain]\nenable_keychain = false\n", registry, registry, registry, h.path("containerd.sock"))
	return b.beginProxy(ctx, h, "soci", config, "soci-snapshotter-grpc")
}

// beginProxy starts a snapshotter that is a program of its own, and waits for its socket.
func (b *bench) beginProxy(ctx context.Context, h *host, name, config, program string) error {
	if err := os.MkdirAll(h.path("run"), 0o700); err != nil {
		return err
	}
	file, socket := h.path(name+".toml"), h.path("run/"+name+".sock")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	p, err := b.begin(ctx, h, name, nil, program, "--address", socket, "--root", h.path(name), "--config", file)
	if err != nil {
		return err
	}
	return await(ctx, 30*time.Second, func() error {
		_, err := os.Stat(socket)
		return errors.Join(err, p.alive())
	})
}

// recordFor is for how long a container runs whose reads an optimised image is made of,
// unless it ends before.
const recordFor = 10 * time.Second

// prepareStargz converts an image with the programs of stargz-snapshotter: as it is, and
// optimised for the workload.
func (b *bench) prepareStargz(ctx context.Context, w workload, asIs, best bool) error {
	convert := func(repository string, options ...string) error {
		c, err := chosenContenders([]string{plain}, b.say)
		if err != nil {
			return err
		}
		return b.onHost(ctx, &c[0], func(h *host) error {
			ctr := func(args ...string) error {
				return run(b.net.inside(ctx, h.role, append([]string{"ctr-remote", "--address", h.path("containerd.sock"), "--namespace", "hello"}, args...)...))
			}
			from := c[0].reference(w.Image)
			to := (&contender{Repository: repository}).reference(w.Image)
			s, err := b.start(ctx, h, startRequest{Snapshotter: c[0].Snapshotter, Reference: from, Pull: true, Workload: argument(w.Image, "true")})
			if err != nil {
				return err
			}
			if err := s.end(); err != nil {
				return err
			}
			if err := ctr(append(append([]string{"images", "optimize", "--oci"}, options...), from, to)...); err != nil {
				return err
			}
			return ctr("images", "push", "--plain-http", to)
		})
	}
	if asIs {
		if err := b.step("stargz", w.Image, "ctr-remote", func() error { return convert(asStargz, "--no-optimize") }); err != nil {
			return err
		}
	}
	if !best {
		return nil
	}
	return b.step("stargz-opt", w.Image, "ctr-remote", func() error {
		entry, err := json.Marshal(recorded(w))
		if err != nil {
			return err
		}
		return convert(asStargzBest, "--period", fmt.Sprint(int(recordFor.Seconds())), "--entrypoint", string(entry), "--args", "[]")
	})
}

// recorded returns a command that reads what the workload reads, without anybody at its input.
func recorded(w workload) []string {
	if w.Mode == modePipe {
		return []string{"bash", "-c", `printf %s "$0" | "$@"`, w.Stdin, w.Args[0]}
	}
	return w.Args
}

// convertSOCI makes the indexes of an image, from layout to layout, and pushes all of it.
func (b *bench) convertSOCI(ctx context.Context, image string) error {
	from, to := filepath.Join(b.work, "soci-from"), filepath.Join(b.work, "soci-to")
	if err := errors.Join(os.RemoveAll(from), os.RemoveAll(to)); err != nil {
		return err
	}
	defer func() { _ = errors.Join(os.RemoveAll(from), os.RemoveAll(to)) }() // the next image does it again
	i, err := layoutImage(b.layout(image), image)
	if err != nil {
		return err
	}
	if err := addToLayout(from, i, image); err != nil {
		return err
	}
	if err := command(ctx, "soci", "convert", "--standalone", "--format", "oci-dir", "--min-layer-size", "0", from, to); err != nil {
		return err
	}
	return run(b.net.inside(ctx, server, b.self, "push", "-layout", to, "-to", fmt.Sprintf("127.0.0.1:%d/%s/%s:1", registryPort, asSOCI, image)))
}

// pushAll pushes what a layout has: its only entry, with all that lies below.
func pushAll(ctx context.Context, dir string, ref name.Reference) error {
	path, err := layout.FromPath(dir)
	if err != nil {
		return fmt.Errorf("layout %s: %w", dir, err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	if len(manifest.Manifests) != 1 || !manifest.Manifests[0].MediaType.IsIndex() {
		return remote.WriteIndex(ref, index, remote.WithContext(ctx))
	}
	var inner v1.ImageIndex
	if inner, err = index.ImageIndex(manifest.Manifests[0].Digest); err != nil {
		return err
	}
	return remote.WriteIndex(ref, inner, remote.WithContext(ctx))
}
