package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// refName is the annotation that holds an image's tag in a layout.
const refName = "org.opencontainers.image.ref.name"

// A folder is an image layout, as the OCI specification of that name has it.
type folder struct{ dir string }

// openLayout opens DIR, DIR:TAG or DIR@DIGEST. A DIR that exists with a colon
// in its name is taken for the whole.
func openLayout(ctx context.Context, src string, opts *Options) (*Image, error) {
	dir, tag := splitTag(src)
	lay := &folder{dir}
	raw, err := lay.read("index.json")
	if err != nil {
		return nil, fmt.Errorf("OCI layout: %w", err)
	}
	index, err := v1.ParseIndexManifest(strings.NewReader(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("OCI layout: index.json: %w", err)
	}
	desc, err := pick(index.Manifests, tag, opts.Platform)
	if err != nil {
		return nil, fmt.Errorf("OCI layout: %w", err)
	}
	manifest, err := checkedManifest(ctx, lay, desc)
	if err != nil {
		return nil, err
	}
	if desc.MediaType == "" {
		if desc.MediaType, err = typeOf(manifest); err != nil {
			return nil, err
		}
	}
	img, err := imageAt(ctx, lay, desc, manifest, opts.Platform)
	if err != nil {
		return nil, err
	}
	img.Reference = "oci:" + src
	return img, nil
}

func splitTag(src string) (dir, tag string) {
	if _, err := os.Stat(src); err == nil {
		return src, ""
	}
	if i := strings.LastIndex(src, "@sha256:"); i >= 0 {
		return src[:i], src[i+1:]
	}
	// A tag may hold slashes and colons, so the folder is the first part that is one.
	for i := range len(src) {
		if src[i] == ':' {
			if info, err := os.Stat(src[:i]); err == nil && info.IsDir() {
				return src[:i], src[i+1:]
			}
		}
	}
	return src, ""
}

// pick finds a tag or a digest in a layout's index. Without either, the only
// image is meant, or the only one for the platform.
func pick(list []v1.Descriptor, tag string, want *v1.Platform) (v1.Descriptor, error) {
	var tags []string
	var found []v1.Descriptor
	for _, desc := range list {
		if tag != "" && (desc.Annotations[refName] == tag || desc.Digest.String() == tag) {
			found = append(found, desc)
		}
		tags = append(tags, desc.Annotations[refName])
	}
	switch {
	case len(list) == 0:
		return v1.Descriptor{}, errors.New("it holds no image")
	case tag != "" && len(found) == 0:
		return v1.Descriptor{}, fmt.Errorf("no image %q; there are %q", tag, tags)
	case tag == "":
		found = list
	}
	if len(found) == 1 || tag != "" && sameDigest(found) {
		return found[0], nil
	}
	desc, err := choose(found, want)
	if err != nil || tag == "" && suiting(found, want) > 1 {
		return v1.Descriptor{}, fmt.Errorf("it holds %d images, choose one by its tag: %q", len(found), tags)
	}
	return desc, nil
}

func sameDigest(list []v1.Descriptor) bool {
	for _, d := range list {
		if d.Digest != list[0].Digest {
			return false
		}
	}
	return true
}

func suiting(list []v1.Descriptor, want *v1.Platform) int {
	n := 0
	for _, d := range list {
		if d.Platform == nil || d.Platform.Satisfies(*want) {
			n++
		}
	}
	return n
}

func (l *folder) read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(l.dir, name))
	if err != nil {
		return nil, err
	}
	data, err := readBounded(f, maxManifestBytes)
	return data, errors.Join(err, f.Close())
}

func (l *folder) manifest(_ context.Context, digest v1.Hash) ([]byte, error) {
	return l.read(filepath.Join("blobs", digest.Algorithm, digest.Hex))
}

func (l *folder) blob(_ context.Context, digest v1.Hash) (io.ReadCloser, error) {
	return os.Open(filepath.Join(l.dir, "blobs", digest.Algorithm, digest.Hex))
}
