package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// layout returns where an image is: in the layout that was given, or that of images that
// prepare makes.
func (b *bench) layout(image string) string {
	if image == fileImage {
		return filepath.Join(b.dir, "made")
	}
	return filepath.Join(b.dir, "layout")
}

// prepareCommand brings images into all forms that contenders want. What is there already stays.
func prepareCommand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("prepare", flag.ContinueOnError)
	dir := f.String("dir", "", "folder to fill")
	layoutDir := f.String("layout", "", "OCI layout with the images")
	images := f.String("images", "", "workloads, or whole for those that read everything (default all starts)")
	names := f.String("contenders", "", "contenders (default all that can run)")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *dir == "" || *layoutDir == "" {
		return errors.New("-dir and -layout are needed")
	}
	b, err := openBench(ctx, *dir)
	if err != nil {
		return err
	}
	defer b.close()
	chosen, err := workloads(list(*images))
	if err != nil {
		return err
	}
	cs, err := chosenContenders(list(*names), b.say)
	if err != nil {
		return err
	}
	source, err := filepath.Abs(*layoutDir)
	if err != nil {
		return err
	}
	if err := b.link(source); err != nil {
		return err
	}
	if err := b.net.connect(ctx, links[0]); err != nil {
		return err
	}
	for _, w := range chosen {
		if err := b.prepare(ctx, w, cs); err != nil {
			return fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	return nil
}

// link remembers where the images are.
func (b *bench) link(layoutDir string) error {
	name := filepath.Join(b.dir, "layout")
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(layoutDir, name)
}

// A step is done once with an image, and again when the image or the program that
// does it is another one; program is "" if that is this one.
func (b *bench) step(name, image, program string, do func() error) error {
	stamp, err := b.stamp(image, program)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	done := filepath.Join(b.dir, "done", name+"-"+image)
	if was, err := os.ReadFile(done); err == nil && string(was) == stamp {
		return nil
	}
	b.say("%s %s", name, image)
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := os.MkdirAll(filepath.Dir(done), 0o755); err != nil {
		return err
	}
	return os.WriteFile(done, []byte(stamp), 0o644)
}

// stamp tells what a step is done with.
func (b *bench) stamp(image, program string) (string, error) {
	i, err := layoutImage(b.layout(image), image)
	if err != nil {
		return "", err
	}
	digest, err := i.Digest()
	if err != nil || program == "" {
		return digest.Hex + "\n", err
	}
	by, err := identity(program)
	return fmt.Sprintf("%s %s %s\n", digest.Hex, program, by), err
}

// identity tells one build of a program on PATH from another.
func identity(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

func (b *bench) prepare(ctx context.Context, w workload, cs []contender) error {
	wants := func(names ...string) bool {
		return slices.ContainsFunc(cs, func(c contender) bool { return slices.Contains(names, c.Name) })
	}
	if w.Image == fileImage {
		if err := b.step("make-"+fileImage, "base", "", func() error { return makeFileImage(b.layout(fileImage), b.layout("base")) }); err != nil {
			return err
		}
	}
	if err := b.step("push", w.Image, "", func() error {
		return run(b.net.inside(ctx, server, b.self, "push", "-layout", b.layout(w.Image), "-image", w.Image, "-to", "127.0.0.1:5000/"+asPushed+"/"+w.Image+":1"))
	}); err != nil {
		return err
	}
	for store, names := range map[string][]string{
		storeCold: {rivuletCold}, storeProfile: {rivuletProfile, rivuletL1, rivuletL2, rivuletPack},
	} {
		if !wants(names...) {
			continue
		}
		if err := b.step("publish-"+store, w.Image, "rivulet", func() error { return b.publish(ctx, store, b.layout(w.Image), w.Image) }); err != nil {
			return err
		}
	}
	// Of an image with two workloads, the profile is that of the first: what is read whole needs none.
	if !w.Whole && wants(rivuletProfile, rivuletL1, rivuletL2, rivuletPack) {
		if err := b.step("record", w.Image, "rivulet", func() error { return b.record(ctx, w) }); err != nil {
			return err
		}
	}
	if !w.Whole && wants(rivuletPack) {
		if err := b.step("pack", w.Image, "rivulet", func() error { return b.pack(ctx, w) }); err != nil {
			return err
		}
	}
	if wants(stargz, stargzBest) && !w.Whole {
		if err := b.prepareStargz(ctx, w, wants(stargz), wants(stargzBest)); err != nil {
			return err
		}
	}
	if wants(soci) && !w.Whole {
		return b.step("soci", w.Image, "soci", func() error { return b.convertSOCI(ctx, w.Image) })
	}
	return nil
}

// record starts an image once, and waits until the store has what the start has read.
func (b *bench) record(ctx context.Context, w workload) error {
	c, err := chosenContenders([]string{rivuletProfile}, b.say)
	if err != nil {
		return err
	}
	return b.onHost(ctx, &c[0], func(h *host) error {
		s, _, err := b.measure(ctx, h, &c[0], w, true)
		if err != nil {
			return err
		}
		return errors.Join(b.kept(ctx, h), s.end())
	})
}

// onHost does something on a new host that a contender has been started on.
func (b *bench) onHost(ctx context.Context, c *contender, do func(*host) error) error {
	h, err := b.newHost(c)
	if err != nil {
		return err
	}
	defer func() { h.end(); _ = clearFolder(h.dir) }() // the next host says what is in the way
	if err := b.beginHost(ctx, h, c); err != nil {
		return err
	}
	return do(h)
}

// pack copies an image with its profile to the other store, and makes a start pack there. Its size is what the start needs.
func (b *bench) pack(ctx context.Context, w workload) error {
	if _, err := b.rivulet(ctx, storeProfile, "copy", w.Image, "--to", b.serverStore(storePack)); err != nil {
		return err
	}
	needs, err := b.packed(ctx, w.Image)
	if err != nil {
		return err
	}
	compressed, err := compressedSize(b.layout(w.Image), w.Image)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(b.dir, "needs.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(writeResult(f, &result{Kind: kindNeeds, Image: w.Name, Needed: needs, Compressed: compressed}), f.Close())
}
