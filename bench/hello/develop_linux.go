package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// develop measures the cycle of development: a source file changes, an image is built of it on
// another machine beyond the link, published from there, and started on a host that has run
// the version before.
func (b *bench) develop(ctx context.Context, p *plan) error {
	cs := slices.DeleteFunc(slices.Clone(p.contenders), func(c contender) bool {
		return !slices.Contains([]string{plain, erofs, rivuletProfile}, c.Name) // the others have no way to convert a layer alone
	})
	for _, l := range p.links {
		if err := b.net.connect(ctx, l); err != nil {
			return err
		}
		for _, w := range p.images {
			for round := 1; round <= p.rounds; round++ {
				for i := range cs {
					if p.has(&result{Kind: kindDevelop, Link: l.Name, Image: w.Name, Contender: cs[i].Name, Round: round}) {
						continue
					}
					err := b.onHost(ctx, &cs[i], func(h *host) error { return b.developOnce(ctx, p, &cs[i], h, w, round) })
					if err != nil {
						return fmt.Errorf("%s, %s, round %d: %w", w.Name, cs[i].Name, round, err)
					}
				}
			}
		}
	}
	return nil
}

func (b *bench) developOnce(ctx context.Context, p *plan, c *contender, h *host, w workload, round int) error {
	s, _, err := b.measure(ctx, h, c, w, true)
	if err != nil {
		return err
	}
	if err := s.end(); err != nil {
		return err
	}
	dir := filepath.Join(b.work, "developed")
	if err := b.checkOut(ctx, c, dir, w.Image); err != nil {
		return err
	}
	before, err := b.net.traffic(ctx)
	if err != nil {
		return err
	}
	// No two versions are alike, also of two runs.
	changed := fmt.Sprintf("%s:%d", w.Image, time.Now().UnixNano())
	begun := time.Now()
	if err := b.build(dir, w.Image, changed); err != nil {
		return err
	}
	built := time.Now()
	if err := b.publishChange(ctx, c, dir, w.Image, changed); err != nil {
		return err
	}
	published := time.Now()
	again := w
	again.Image = changed
	s, r, err := b.measure(ctx, h, c, again, true)
	if err != nil {
		return err
	}
	after, err := b.net.traffic(ctx)
	if err = errors.Join(err, s.end(), os.RemoveAll(dir)); err != nil {
		return err
	}
	r.Kind, r.Image, r.Round = kindDevelop, w.Name, round
	r.Build, r.Publish = built.Sub(begun).Seconds(), published.Sub(built).Seconds()
	r.Bytes, r.Up = after.Down-before.Down, after.Up-before.Up
	b.say("develop %s %s %s %d: build %.2f publish %.2f pull %.2f create %.2f ready %.2f", r.Link, r.Image, r.Contender, round, r.Build, r.Publish, r.Pull, r.Create, r.Ready)
	return writeResult(p.out, &r)
}

// checkOut gives the developer what is there before: the layers of the version before, and for rivulet
// the name that is to move, so that the new version inherits the profile.
func (b *bench) checkOut(ctx context.Context, c *contender, dir, image string) error {
	base, err := layoutImage(b.layout(image), image)
	if err != nil {
		return err
	}
	layers, err := base.Layers()
	if err != nil {
		return err
	}
	blobs := filepath.Join("blobs", "sha256")
	if err := os.MkdirAll(filepath.Join(dir, blobs), 0o755); err != nil {
		return err
	}
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			return err
		}
		if err := copyFile(filepath.Join(dir, blobs, d.Hex), filepath.Join(b.layout(image), blobs, d.Hex)); err != nil {
			return err
		}
	}
	if !ours(c.Name) {
		return nil
	}
	if _, err := b.rivulet(ctx, storeProfile, "inspect", developed(image)); err == nil {
		return nil
	}
	_, err = b.rivulet(ctx, storeProfile, "publish", "oci:"+b.layout(image)+":"+image, "--name", developed(image))
	return err
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// developed is the name in the store of what a developer works on.
func developed(image string) string { return image + "-develop" }

// build makes the image with one source file more, as a layer on top.
func (b *bench) build(dir, image, name string) error {
	base, err := layoutImage(b.layout(image), image)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	t := tar.NewWriter(&text)
	source := []byte(name + "\n")
	if err := t.WriteHeader(&tar.Header{Name: "lab/source", Mode: 0o644, Size: int64(len(source)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if _, err := t.Write(source); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil })
	if err != nil {
		return err
	}
	changed, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return err
	}
	return addToLayout(dir, changed, name)
}

// publishChange brings the image to the registry, and for rivulet its disk to the store, from beyond the
// link.
func (b *bench) publishChange(ctx context.Context, c *contender, dir, image, name string) error {
	if err := run(b.net.inside(ctx, host2, b.self, "push", "-layout", dir, "-image", name, "-to", c.reference(name))); err != nil {
		return err
	}
	if !ours(c.Name) {
		return nil
	}
	cmd := b.net.inside(ctx, host2, "rivulet", "--store", b.storeURL(storeProfile), "publish", "oci:"+dir, "--name", developed(image))
	cmd.Env = append(os.Environ(), "RIVULET_KEYS="+filepath.Join(b.dir, "keys"), "XDG_RUNTIME_DIR="+b.work)
	return run(cmd)
}
