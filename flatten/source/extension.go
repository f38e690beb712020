package source

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// An Extension opens sources of schemes that this package does not know.
type Extension interface {
	// Open returns the layers of srcs, which follow one another on top of those in
	// below and are all of the extension's schemes. It may read below. Of the image,
	// Layers, Labels and what its Close removes count.
	Open(ctx context.Context, srcs []string, below []*Layer) (*Image, error)
}

// NewLayer returns a layer that is an uncompressed archive of size bytes. open is called
// for every reading of it.
func NewLayer(diffID v1.Hash, size int64, open func(ctx context.Context) (io.ReadCloser, error)) *Layer {
	return &Layer{DiffID: diffID, Size: size, open: open}
}

// OnClose has Close call fn too.
func (img *Image) OnClose(fn func() error) { img.cleanup = append(img.cleanup, fn) }

// addLabels adds labels to a configuration, keeping all else. Without labels, the bytes
// stay as they are.
func addLabels(config []byte, labels map[string]string) ([]byte, error) {
	if len(labels) == 0 {
		return config, nil
	}
	var fields, inner map[string]json.RawMessage
	all := make(map[string]string)
	err := json.Unmarshal(config, &fields)
	if raw := fields["config"]; err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &inner)
	}
	if raw := inner["Labels"]; err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	if all == nil {
		all = make(map[string]string)
	}
	maps.Copy(all, labels)
	if inner == nil {
		inner = make(map[string]json.RawMessage)
	}
	if inner["Labels"], err = json.Marshal(all); err != nil {
		return nil, err
	}
	if fields["config"], err = json.Marshal(inner); err != nil {
		return nil, err
	}
	if config, err = json.Marshal(fields); err == nil && len(config) > maxConfigBytes {
		err = fmt.Errorf("image configuration of %d bytes: at most %d are supported", len(config), maxConfigBytes)
	}
	return config, err
}
