package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/python"
	"github.com/rivuletfs/rivulet/packages/rootfs"
)

// A base is an image that packages are installed for.
type base struct {
	cache  *Cache
	layers []*source.Layer
	name   string // hexadecimal digits of the chain ID
	temp   string
	target *python.Target
	kept   []*os.File // what was read of the layers, for those who read them after
}

// keep has each layer be asked for once, though it is read here and, to be published, again.
func (b *base) keep() error {
	for _, l := range b.layers {
		f, err := os.CreateTemp(b.temp, "rivulet-layer-*")
		if err != nil {
			return err
		}
		b.kept = append(b.kept, f)
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		l.Keep(f)
	}
	return nil
}

// close ends what keep has begun. The layers cannot be read any more.
func (b *base) close() error {
	var errs []error
	for _, f := range b.kept {
		errs = append(errs, f.Close())
	}
	b.kept = nil
	return errors.Join(errs...)
}

// base finds out which Python the layers have: once, for it stays known.
func (c *Cache) base(ctx context.Context, layers []*source.Layer, temp string) (*base, error) {
	if len(layers) == 0 {
		return nil, errors.New("packages are installed for the image below them: name one first, such as oci:DIR")
	}
	b := &base{cache: c, layers: layers, name: chainOf(layers), temp: temp}
	others := false
	if !b.readTarget() {
		var own bool
		var err error
		if b.target, own, err = c.foundTarget(ctx, b.name); err != nil {
			return nil, err
		}
		others = b.target != nil && !own
	}
	if b.target == nil {
		if _, err := b.root(ctx); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	c.noted(targetKind, targetVersion+b.name, b.target, others)
	return b, nil
}

func (b *base) readTarget() bool {
	data, err := os.ReadFile(b.cache.path("bases", b.name, "target.json"))
	var t python.Target
	if err != nil || json.Unmarshal(data, &t) != nil || t.Check() != nil {
		return false
	}
	b.target = &t
	return true
}

// root returns the folder with the image's tree.
func (b *base) root(ctx context.Context) (string, error) {
	defer b.cache.used(baseKind, b.name)
	dir := b.cache.path("bases", b.name)
	root := filepath.Join(dir, "root")
	if isDir(root) && (b.target != nil || b.readTarget()) {
		return root, nil
	}
	unlock, err := b.cache.lock(ctx, "base-"+b.name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isDir(root) && (b.target != nil || b.readTarget()) {
		return root, nil
	}
	made, err := fresh(dir)
	if err != nil {
		return "", err
	}
	if err := b.make(ctx, made); err != nil {
		return "", errors.Join(err, scratch.RemoveAll(made))
	}
	if err := errors.Join(scratch.RemoveAll(dir), os.Rename(made, dir)); err != nil {
		return "", errors.Join(err, scratch.RemoveAll(made))
	}
	return root, nil
}

func (b *base) make(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := b.keep(); err != nil {
		return err
	}
	if err := rootfs.Write(ctx, b.layers, root, b.temp); err != nil {
		return fmt.Errorf("unpack the image below: %w", err)
	}
	t, err := python.Probe(ctx, root)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	if b.target == nil { // else others read it
		b.target = t
	}
	b.cache.grew()
	// Trees have many files: their sizes are added up once.
	size := strconv.AppendInt(nil, bytesBelow(root), 10)
	return errors.Join(os.WriteFile(filepath.Join(dir, "bytes"), size, 0o644),
		os.WriteFile(filepath.Join(dir, "target.json"), append(data, '\n'), 0o644))
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// chainOf returns the chain ID of layers in hexadecimal.
func chainOf(layers []*source.Layer) string {
	id := layers[0].DiffID.String()
	for _, l := range layers[1:] {
		sum := sha256.Sum256([]byte(id + " " + l.DiffID.String()))
		id = "sha256:" + hex.EncodeToString(sum[:])
	}
	return strings.TrimPrefix(id, "sha256:")
}
