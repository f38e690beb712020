package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// repository is what a registry and an image layout have in common. What they
// return was not checked against any digest.
type repository interface {
	// manifest returns a manifest or an index, of at most maxManifestBytes.
	manifest(ctx context.Context, digest v1.Hash) ([]byte, error)
	// blob opens a configuration or a layer.
	blob(ctx context.Context, digest v1.Hash) (io.ReadCloser, error)
}

// imageAt returns the image that a checked manifest or index describes.
func imageAt(ctx context.Context, repo repository, desc v1.Descriptor, raw []byte, want *v1.Platform) (*Image, error) {
	for depth := 0; desc.MediaType.IsIndex(); depth++ {
		if depth == maxIndexDepth {
			return nil, fmt.Errorf("more than %d indexes within indexes", maxIndexDepth)
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
		if desc, err = choose(index.Manifests, want); err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		if raw, err = checkedManifest(ctx, repo, desc); err != nil {
			return nil, err
		}
	}
	if !desc.MediaType.IsImage() {
		return nil, fmt.Errorf("%s is of type %q, which is no image", desc.Digest, desc.MediaType)
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if !manifest.Config.MediaType.IsConfig() {
		return nil, fmt.Errorf("%s is no container image: its configuration is of type %q", desc.Digest, manifest.Config.MediaType)
	}
	config, err := checkedConfig(ctx, repo, manifest.Config)
	if err != nil {
		return nil, err
	}
	layers, err := layersOf(repo, manifest.Layers, config)
	if err != nil {
		return nil, err
	}
	return &Image{Digest: desc.Digest, Config: config, Layers: layers}, nil
}

// typeOf tells what a manifest is whose descriptor does not say.
func typeOf(raw []byte) (types.MediaType, error) {
	var m struct {
		MediaType types.MediaType `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return "", fmt.Errorf("manifest: %w", err)
	}
	switch {
	case m.MediaType != "":
		return m.MediaType, nil
	case m.Manifests != nil:
		return types.OCIImageIndex, nil
	case m.Layers != nil:
		return types.OCIManifestSchema1, nil
	}
	return "", errors.New("manifest of unknown form")
}

// choose picks the first image of an index that suits the platform. An index
// within the index suits if it does not say for which platform it is.
func choose(list []v1.Descriptor, want *v1.Platform) (v1.Descriptor, error) {
	var have []string
	for _, desc := range list {
		if !desc.MediaType.IsIndex() && !desc.MediaType.IsImage() {
			continue
		}
		p := desc.Platform
		if p == nil && (desc.MediaType.IsIndex() || len(list) == 1) || p != nil && p.Satisfies(*want) {
			return desc, nil
		}
		if p != nil {
			have = append(have, p.String())
		}
	}
	return v1.Descriptor{}, fmt.Errorf("no image for platform %s; there are %q", want, have)
}

func checkedManifest(ctx context.Context, repo repository, desc v1.Descriptor) ([]byte, error) {
	if err := checkHash(desc.Digest); err != nil {
		return nil, err
	}
	raw, err := repo.manifest(ctx, desc.Digest)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if got := sha256Of(raw); got != desc.Digest {
		return nil, &DigestError{What: "manifest", Want: desc.Digest, Got: got}
	}
	return raw, nil
}

func checkedConfig(ctx context.Context, repo repository, desc v1.Descriptor) ([]byte, error) {
	if err := checkHash(desc.Digest); err != nil {
		return nil, err
	}
	r, err := repo.blob(ctx, desc.Digest)
	if err != nil {
		return nil, fmt.Errorf("image configuration %s: %w", desc.Digest, err)
	}
	config, err := readBounded(r, maxConfigBytes)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("image configuration %s: %w", desc.Digest, err)
	}
	if got := sha256Of(config); got != desc.Digest {
		return nil, &DigestError{What: "image configuration", Want: desc.Digest, Got: got}
	}
	return config, nil
}

// readBounded reads all of r, if that is at most max bytes.
func readBounded(r io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("larger than %d bytes", max)
	}
	return data, err
}

// layersOf pairs a manifest's layers with the configuration's diff IDs.
func layersOf(repo repository, descs []v1.Descriptor, config []byte) ([]*Layer, error) {
	ids, err := diffIDs(config)
	if err != nil {
		return nil, err
	}
	if len(ids) != len(descs) {
		return nil, fmt.Errorf("manifest has %d layers, image configuration %d", len(descs), len(ids))
	}
	_, remote := repo.(*remoteRepository)
	layers := make([]*Layer, len(descs))
	for i, desc := range descs {
		if err := checkLayer(desc); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		layers[i] = &Layer{
			DiffID: ids[i], Digest: desc.Digest, Size: desc.Size, mediaType: string(desc.MediaType),
			open:   func(ctx context.Context) (io.ReadCloser, error) { return repo.blob(ctx, desc.Digest) },
			remote: remote,
		}
	}
	return layers, nil
}

func checkLayer(desc v1.Descriptor) error {
	if !desc.MediaType.IsDistributable() {
		return fmt.Errorf("its content is not distributed with the image (type %q)", desc.MediaType)
	}
	if _, err := codecOf(string(desc.MediaType)); err != nil {
		return err
	}
	if desc.Size < 0 {
		return fmt.Errorf("size %d", desc.Size)
	}
	return checkHash(desc.Digest)
}
