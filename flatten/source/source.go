// Package source finds images and their layers: in registries, in OCI image
// layouts, in archives that docker save wrote, in plain directories and in tar
// and zip files.
//
// [Open] reads no more than manifests and configurations, so that a layer whose
// diff ID is known already need never be downloaded; [Layer.Read] does the rest.
// Everything that has a digest is checked against it: manifests, configurations
// and compressed layers by their own, uncompressed layers by their diff ID.
//
// A directory, a tar file or a zip file has no digest of its own. It stands for the
// canonical archive of what is in it (flatten.WriteArchive), whose SHA-256 is the
// diff ID; a directory and a tar file with the same content have the same. To
// find it, Open reads them through once, and Read does so again.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/flatten"
)

// Bounds that are checked before anything is read.
const (
	maxManifestBytes = 4 << 20 // a manifest or an index
	maxConfigBytes   = 8 << 20 // an image configuration, as in a block map
	maxLayers        = 1024    // of all sources together
	maxIndexDepth    = 4       // indexes within indexes
)

// Options says how Open finds an image. The zero value is ready to use.
type Options struct {
	// Platform chooses from an index. The default is Linux on the machine's own
	// architecture.
	Platform *v1.Platform
	// Keychain has the credentials for registries; the default is what docker
	// and podman have configured, credential helpers included.
	Keychain authn.Keychain
	// Insecure allows plain HTTP and certificates that nobody vouches for. Plain
	// HTTP to the machine itself needs no permission.
	Insecure bool
	// TempDir is where temporary files go; the default is os.TempDir.
	TempDir string
	// Gunzip says what decompresses gzip layers; the default is GunzipAuto.
	Gunzip Gunzip
	// Limits bounds each layer.
	Limits flatten.Limits
	// Extensions open sources of further schemes, which are the keys.
	Extensions map[string]Extension
	// Progress, if set, is told how many compressed bytes of a layer were read
	// so far: now and then during Layer.Read, and at its end. Calls for one
	// layer come one after the other, those for several may come at once.
	Progress func(l *Layer, read int64)
}

// An Image is an image that was found, and where to get its layers.
type Image struct {
	// Digest is that of the image's manifest, after the platform was chosen.
	// Where there is none (docker archives, directories, tar files, several
	// sources stacked), it is the SHA-256 of Config; for a docker archive that
	// is the image's ID.
	Digest v1.Hash
	// Config is the OCI image configuration, byte for byte as it was stored.
	// For directories and tar files it says only which layers there are, and for
	// several sources it is the last one's that has any, with the layers of
	// all; keys are then sorted and no space is between them.
	Config []byte
	// Reference names the image for humans: the sources joined by "+", a
	// registry reference written out in full.
	Reference string
	// Layers is the layers, lowest first.
	Layers []*Layer
	// Labels is what an Extension adds to the configuration's; Config has them.
	Labels map[string]string

	cleanup []func() error
}

// Close removes the temporary files that Open made. The image's layers cannot
// be read any more.
func (img *Image) Close() error {
	var errs []error
	for _, fn := range img.cleanup {
		errs = append(errs, fn())
	}
	img.cleanup = nil
	return errors.Join(errs...)
}

// A Layer is one layer of an image that was found.
type Layer struct {
	// DiffID is the SHA-256 of the uncompressed layer.
	DiffID v1.Hash
	// Digest is that of the layer as it is stored. It is zero for layers that
	// have none, which are those of docker archives, directories and tar files.
	Digest v1.Hash
	// Size is how many bytes Read reads, as far as known before: the stored
	// size, or that of the canonical archive.
	Size int64

	index     int // in the image
	remote    bool
	mediaType string
	igzip     string // program that decompresses it; "": none
	open      func(ctx context.Context) (io.ReadCloser, error)
	limits    flatten.Limits
	progress  func(l *Layer, read int64)
}

// A LayerError says which layer could not be read.
type LayerError struct {
	Index  int // in the image, the lowest is 0
	DiffID v1.Hash
	Err    error
}

func (e *LayerError) Error() string {
	return fmt.Sprintf("layer %d (diff ID %s): %v", e.Index, e.DiffID, e.Err)
}

func (e *LayerError) Unwrap() error { return e.Err }

// A DigestError says that bytes are not what their digest promises.
type DigestError struct {
	What      string // "manifest", "configuration", "stored layer", "uncompressed layer"
	Want, Got v1.Hash
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s is corrupt: its digest is %s, not %s", e.What, e.Got, e.Want)
}

// Forms lists the forms of a source, for messages.
const Forms = "REGISTRY/REPOSITORY[:TAG|@DIGEST], oci:DIR[:TAG|@DIGEST], docker-archive:FILE, dir:PATH, tar:FILE or zip:FILE[@DIR]"

// Open finds the image that the given sources name. With several, the layers
// of the first are the lowest. The forms are those of [Forms]. The caller closes
// the image.
func Open(ctx context.Context, sources []string, opts Options) (*Image, error) {
	if len(sources) == 0 {
		return nil, fmt.Errorf("no source given: want %s", Forms)
	}
	opts.setDefaults()
	stack := &Image{Reference: strings.Join(sources, "+")}
	var parts []*Image
	for len(sources) > 0 {
		img, n, err := openNext(ctx, sources, stack.Layers, &opts)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", strings.Join(sources[:n], " "), err), stack.Close())
		}
		sources = sources[n:]
		parts = append(parts, img)
		stack.cleanup = append(stack.cleanup, img.cleanup...)
		stack.Layers = append(stack.Layers, img.Layers...)
	}
	if len(stack.Layers) > maxLayers {
		return nil, errors.Join(fmt.Errorf("open %s: %d layers: at most %d are supported", stack.Reference, len(stack.Layers), maxLayers), stack.Close())
	}
	if err := stack.describe(parts); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", stack.Reference, err), stack.Close())
	}
	for i, l := range stack.Layers {
		l.index, l.limits, l.progress = i, opts.Limits, opts.Progress
		var err error
		if l.igzip, err = opts.Gunzip.igzip(l.Size); err != nil {
			return nil, errors.Join(err, stack.Close())
		}
	}
	return stack, nil
}

func (o *Options) setDefaults() {
	if o.Platform == nil {
		o.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
}

// openNext opens the first of the sources, on top of the layers below, or as many as one
// extension opens at once; n is how many it were.
func openNext(ctx context.Context, sources []string, below []*Layer, opts *Options) (img *Image, n int, err error) {
	extension := func(src string) Extension {
		scheme, _, _ := strings.Cut(src, ":")
		return opts.Extensions[scheme]
	}
	e := extension(sources[0])
	if e == nil {
		img, err = openOne(ctx, sources[0], opts)
		return img, 1, err
	}
	for n = 1; n < len(sources) && extension(sources[n]) == e; n++ {
	}
	img, err = e.Open(ctx, sources[:n], below)
	return img, n, err
}

// schemes begin sources that are files and folders of this machine.
var schemes = []string{"oci", "docker-archive", "dir", "tar", "zip"}

// IsReference reports whether Open, without Extensions, looks for src in a registry.
func IsReference(src string) bool {
	scheme, _, _ := strings.Cut(src, ":")
	return !slices.Contains(schemes, scheme)
}

func openOne(ctx context.Context, src string, opts *Options) (*Image, error) {
	if IsReference(src) {
		return openRegistry(ctx, src, opts)
	}
	scheme, rest, _ := strings.Cut(src, ":")
	switch scheme {
	case "oci":
		return openLayout(ctx, rest, opts)
	case "docker-archive":
		return openDockerArchive(ctx, rest, opts)
	case "dir":
		return openDirectory(ctx, rest)
	case "tar":
		return openTar(ctx, rest, opts)
	default:
		return openZip(ctx, rest, opts)
	}
}
