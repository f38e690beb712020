package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/bench/touched"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/source"
)

// A sum stands for the content of one block: the start of the SHA-256 of its
// bytes up to the last that is not zero, or zero for a block of zeros.
type sum [16]byte

// A file is what the layout needs to know of one, and its content.
type file struct {
	path   string
	size   int64
	blocks []sum
	last   []uint16          // bytes of each block up to the last that is not zero
	data   int64             // where it begins in the layer's spool
	id     [sha256.Size]byte // of size and blocks
}

// A layer is the regular files of one, empty ones left out, in walk order.
type layer struct {
	files []file
	paths map[string]bool
	spool *os.File // unlinked
}

// A collection is all images of an OCI layout.
type collection struct {
	images []string            // sorted
	layers map[string][]string // image -> diff IDs, lowest first
	byID   map[string]*layer
	starts []touched.Start
}

func (c *collection) close() {
	for _, l := range c.byID {
		_ = l.spool.Close() // unlinked: nothing is kept
	}
}

// readAll reads each distinct layer once.
func readAll(ctx context.Context, o options) (*collection, error) {
	names, err := imageNames(o.dir)
	if err != nil {
		return nil, err
	}
	c := &collection{images: names, layers: make(map[string][]string), byID: make(map[string]*layer)}
	for _, name := range names {
		if err := c.readImage(ctx, o, name); err != nil {
			c.close()
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
	}
	return c, nil
}

func imageNames(dir string) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	var index struct {
		Manifests []struct{ Annotations map[string]string }
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	var names []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations["org.opencontainers.image.ref.name"])
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (c *collection) readImage(ctx context.Context, o options, name string) error {
	img, err := source.Open(ctx, []string{"oci:" + o.dir + ":" + name}, source.Options{TempDir: o.temp})
	if err != nil {
		return err
	}
	defer func() { _ = img.Close() }() // an OCI layout has no temporary files
	for _, l := range img.Layers {
		id := l.DiffID.Hex
		c.layers[name] = append(c.layers[name], id)
		if c.byID[id] != nil {
			continue
		}
		if c.byID[id], err = readLayer(ctx, l, o.temp); err != nil {
			return err
		}
	}
	return nil
}

func readLayer(ctx context.Context, src *source.Layer, temp string) (*layer, error) {
	spool, err := os.CreateTemp(temp, "sweep-*")
	if err != nil {
		return nil, err
	}
	l := &layer{spool: spool, paths: make(map[string]bool)}
	if err = os.Remove(spool.Name()); err == nil {
		err = l.read(ctx, src)
	}
	if err != nil {
		_ = spool.Close()
		return nil, err
	}
	return l, nil
}

func (l *layer) read(ctx context.Context, src *source.Layer) error {
	in, err := src.Read(ctx, l.spool)
	if err != nil {
		return err
	}
	for i := range in.Entries {
		e := &in.Entries[i]
		if e.Kind != flatten.File || e.Size == 0 {
			continue
		}
		f := file{path: strings.Clone(e.Path), size: e.Size, data: e.Data}
		if err := f.digest(io.NewSectionReader(l.spool, e.Data, e.Size)); err != nil {
			return fmt.Errorf("file %q: %w", e.Path, err)
		}
		l.files = append(l.files, f)
		l.paths[f.path] = true
	}
	return nil
}

// digest reads the file's content from r.
func (f *file) digest(r io.Reader) error {
	buf := make([]byte, 64*ext4.BlockSize)
	for left := f.size; left > 0; {
		n := int(min(left, int64(len(buf))))
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return err
		}
		for at := 0; at < n; at += ext4.BlockSize {
			f.add(buf[at:min(at+ext4.BlockSize, n)])
		}
		left -= int64(n)
	}
	f.finish()
	return nil
}

// add appends one block, which the end of the file may cut short.
func (f *file) add(b []byte) {
	b = chunk.Trim(b)
	var s sum
	if len(b) > 0 {
		h := sha256.Sum256(b)
		copy(s[:], h[:])
	}
	f.blocks = append(f.blocks, s)
	f.last = append(f.last, uint16(len(b)))
}

// finish sets the file's id.
func (f *file) finish() {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, f.size)
	for i := range f.blocks {
		h.Write(f.blocks[i][:])
	}
	f.id = [sha256.Size]byte(h.Sum(nil))
}
