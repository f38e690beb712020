package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	fileBytes = 500_000_000
	// Of each block, this much is random and the rest is not, so that it compresses to about
	// a third as programs do.
	fileBlock, fileRandom = 4096, 1100
)

// makeFileImage makes an image of one large file on base.
func makeFileImage(dir, from string) error {
	base, err := layoutImage(from, "base")
	if err != nil {
		return err
	}
	name := dir + ".tar"
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(name) }()
	if err := writeLargeFile(f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromFile(name)
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return err
	}
	return addToLayout(dir, image, fileImage)
}

// writeLargeFile writes a tar of one file, the same bytes each time.
func writeLargeFile(w io.Writer) error {
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Name: "data/file", Mode: 0o644, Size: fileBytes, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{1})
	block := make([]byte, fileBlock)
	for n := int64(0); n < fileBytes; {
		_, _ = random.Read(block[:fileRandom]) // never an error
		copy(block[fileRandom:], bytes.Repeat([]byte(strconv.FormatInt(n, 10)+" of a file that is read whole\n"), fileBlock/32))
		part := block[:min(int64(fileBlock), fileBytes-n)]
		if _, err := t.Write(part); err != nil {
			return err
		}
		n += int64(len(part))
	}
	return t.Close()
}

// addToLayout adds an image to a layout, which is made if there is none; one of that name goes.
func addToLayout(dir string, image v1.Image, name string) error {
	path, err := layout.FromPath(dir)
	if err != nil {
		if path, err = layout.Write(dir, empty.Index); err != nil {
			return fmt.Errorf("layout %s: %w", dir, err)
		}
	}
	named := func(d v1.Descriptor) bool { return d.Annotations["org.opencontainers.image.ref.name"] == name }
	return path.ReplaceImage(image, named, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name}))
}
