// Uniquefiles computes what perfect deduplication of whole files would store of
// the images in an OCI layout: the bound that chunks are measured against.
//
//	uniquefiles OCI-DIR NAME...
//
// It reads each layer once and prints one JSON object, all in bytes:
//
//	layer_bytes      compressed layers of each image, images taken singly
//	unique_layers    compressed layers, each once
//	file_bytes       regular files of each image, rounded up to 4 KiB
//	unique_bytes     the same, each content once
//	unique_zstd      unique contents as package seal codes them, each as if it began
//	                 a chunk of its own, chunk headers left out
//
// Files that an upper layer hides are counted: a layer's segment keeps them.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const blockSize = 4 << 10 // what file systems round a file up to

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

// A report is what is printed.
type report struct {
	Images       int   `json:"images"`
	LayerBytes   int64 `json:"layer_bytes"`
	UniqueLayers int64 `json:"unique_layers"`
	FileBytes    int64 `json:"file_bytes"`
	UniqueBytes  int64 `json:"unique_bytes"`
	UniqueZstd   int64 `json:"unique_zstd"`
}

// A census counts layers and contents, each once.
type census struct {
	dir    string
	report report
	layers map[string]int64 // rounded file bytes by layer digest
	files  map[[sha256.Size]byte]bool
	coder  *coder
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "uniquefiles:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("want an OCI layout and names of images")
	}
	coder, err := newCoder()
	if err != nil {
		return err
	}
	c := &census{dir: args[0], layers: make(map[string]int64), files: make(map[[sha256.Size]byte]bool), coder: coder}
	for _, name := range args[1:] {
		if err := c.addImage(name); err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(c.report)
}

func (c *census) blob(digest string) string {
	return filepath.Join(c.dir, "blobs", strings.Replace(digest, ":", "/", 1))
}

func (c *census) addImage(name string) error {
	var index struct{ Manifests []descriptor }
	if err := readJSON(filepath.Join(c.dir, "index.json"), &index); err != nil {
		return err
	}
	for _, m := range index.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] != name {
			continue
		}
		var manifest struct{ Layers []descriptor }
		if err := readJSON(c.blob(m.Digest), &manifest); err != nil {
			return err
		}
		c.report.Images++
		for _, layer := range manifest.Layers {
			if err := c.addLayer(layer); err != nil {
				return fmt.Errorf("layer %s: %w", layer.Digest, err)
			}
		}
		return nil
	}
	return errors.New("not in the layout")
}

func (c *census) addLayer(layer descriptor) error {
	c.report.LayerBytes += layer.Size
	if size, ok := c.layers[layer.Digest]; ok {
		c.report.FileBytes += size
		return nil
	}
	c.report.UniqueLayers += layer.Size
	f, err := os.Open(c.blob(layer.Digest))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	r, err := decompress(f, layer.MediaType)
	if err != nil {
		return err
	}
	size, err := c.addFiles(tar.NewReader(r))
	c.layers[layer.Digest] = size
	c.report.FileBytes += size
	return err
}

func decompress(r io.Reader, mediaType string) (io.Reader, error) {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return gzip.NewReader(bufio.NewReaderSize(r, 1<<20))
	case strings.HasSuffix(mediaType, "zstd"):
		return zstd.NewReader(r)
	}
	return r, nil
}

// addFiles returns the rounded bytes of all regular files of one layer.
func (c *census) addFiles(t *tar.Reader) (int64, error) {
	var total int64
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		default:
			continue
		}
		if h.Size == 0 {
			continue
		}
		rounded := (h.Size + blockSize - 1) / blockSize * blockSize
		total += rounded
		sum, stored, err := c.coder.encode(t)
		if err != nil {
			return total, fmt.Errorf("%s: %w", h.Name, err)
		}
		if !c.files[sum] {
			c.files[sum] = true
			c.report.UniqueBytes += rounded
			c.report.UniqueZstd += stored
		}
	}
}

func readJSON(name string, v any) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
