package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The registry is two processes on one folder: one takes everything, one nothing.
const (
	registryPort = 5000
	readOnlyPort = 5001
)

// beginRegistry starts both in the server's namespace. Where other namespaces reach them there may
// be no link yet.
func (b *bench) beginRegistry(ctx context.Context) error {
	for _, r := range []struct {
		port     int
		readOnly bool
	}{{registryPort, false}, {readOnlyPort, true}} {
		config := filepath.Join(b.work, fmt.Sprintf("registry-%d.yml", r.port))
		text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %q}\n  maintenance: {readonly: {enabled: %v}}\nhttp: {addr: \":%d\", secret: hello}\n",
			filepath.Join(b.dir, "registry"), r.readOnly, r.port)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return err
		}
		log := b.accessLog(r.port)
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			return err
		}
		cmd := b.net.inside(context.WithoutCancel(ctx), server, "registry", "serve", config)
		cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
		p, err := begin(cmd, log)
		if err != nil {
			return err
		}
		b.services = append(b.services, p)
		if err := await(ctx, 30*time.Second, func() error {
			if err := p.alive(); err != nil {
				return err
			}
			return run(b.net.inside(ctx, server, "curl", "-sf", "-o", "/dev/null", fmt.Sprintf("http://127.0.0.1:%d/v2/", r.port)))
		}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) accessLog(port int) string {
	return filepath.Join(b.work, fmt.Sprintf("registry-%d.log", port))
}

// asked returns how many requests the registry has answered: lines of its access logs.
func (b *bench) asked() (int, error) {
	n := 0
	for _, port := range []int{registryPort, readOnlyPort} {
		text, err := os.ReadFile(b.accessLog(port))
		if err != nil {
			return 0, err
		}
		n += bytes.Count(text, []byte(`HTTP/1.`)) + bytes.Count(text, []byte(`HTTP/2`))
	}
	return n, nil
}

// layoutImage finds an image of an OCI layout by its name.
func layoutImage(dir, image string) (v1.Image, error) {
	path, err := layout.FromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("layout %s: %w", dir, err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("layout %s: %w", dir, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("layout %s: %w", dir, err)
	}
	for _, d := range manifest.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] == image {
			return index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("layout %s has no image %q", dir, image)
}

// push brings an image of a layout to the registry; all of the layout, if image is empty.
func push(ctx context.Context, dir, image, reference string) error {
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		return err
	}
	if image == "" {
		return pushAll(ctx, dir, ref)
	}
	i, err := layoutImage(dir, image)
	if err != nil {
		return err
	}
	return remote.Write(ref, i, remote.WithContext(ctx))
}

// compressedSize is what a plain pull of an image downloads.
func compressedSize(dir, image string) (int64, error) {
	i, err := layoutImage(dir, image)
	if err != nil {
		return 0, err
	}
	m, err := i.Manifest()
	if err != nil {
		return 0, err
	}
	n := m.Config.Size
	for _, l := range m.Layers {
		n += l.Size
	}
	return n, nil
}

// pushCommand is push, as a process in the registry's network.
func pushCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("push", flag.ContinueOnError)
	dir, image, to := f.String("layout", "", "OCI layout"), f.String("image", "", "its name there"), f.String("to", "", "reference")
	if err := f.Parse(args); err != nil {
		return err
	}
	return push(ctx, *dir, *image, *to)
}
