package source

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

type codec string

const (
	gzipped   codec = "gzip"
	zstandard codec = "zstd"
	plain     codec = "uncompressed"
)

const (
	storedBuffer   = 256 << 10 // bytes read at once of a stored layer
	maxZstdWindow  = 128 << 20 // bytes; what zstd itself takes with --long=27
	dockerZstdType = "application/vnd.docker.image.rootfs.diff.tar.zstd"
)

// codecOf says how a layer of that media type is compressed.
func codecOf(mediaType string) (codec, error) {
	switch types.MediaType(mediaType) {
	case types.OCILayer, types.DockerLayer:
		return gzipped, nil
	case types.OCILayerZStd, dockerZstdType:
		return zstandard, nil
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer:
		return plain, nil
	}
	return "", fmt.Errorf("layer of unsupported type %q", mediaType)
}

// sniff tells how data is compressed by how it begins.
func sniff(head []byte) codec {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstandard
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return zstandard // a frame to be skipped
	}
	return plain
}

// codecIn says how what in begins with is compressed. An empty media type takes
// what the first bytes say; else both must agree.
func codecIn(in *bufio.Reader, mediaType string) (codec, error) {
	head, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return "", err
	}
	is := sniff(head)
	if mediaType == "" {
		return is, nil
	}
	want, err := codecOf(mediaType)
	if err != nil {
		return "", err
	}
	if want != is {
		return "", fmt.Errorf("layer of type %q is not %s but %s", mediaType, want, is)
	}
	return is, nil
}

// decompress returns the uncompressed form of r, which may have any codec.
func decompress(r io.Reader) (io.Reader, error) {
	in := bufio.NewReaderSize(r, storedBuffer)
	is, err := codecIn(in, "")
	if err != nil {
		return nil, err
	}
	return is.decode(in)
}

// decode returns the uncompressed form of in. It works in the reading goroutine
// and needs no Close.
func (c codec) decode(in *bufio.Reader) (io.Reader, error) {
	var r io.Reader = in
	var err error
	switch c {
	case gzipped:
		r, err = gzip.NewReader(in)
	case zstandard:
		// With one decoder there is no goroutine.
		r, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
	case plain:
		return in, nil
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return wrapped{r}, nil
}

// wrapped says of a decompressor's errors where they come from.
type wrapped struct{ io.Reader }

func (w wrapped) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	return n, decompressing(err)
}

func decompressing(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, errTooLong) {
		return err
	}
	return fmt.Errorf("decompress: %w", err)
}
