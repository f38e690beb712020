package source

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// describe gives a stack of images its digest and configuration.
func (img *Image) describe(parts []*Image) error {
	if len(parts) == 1 && parts[0].Config != nil {
		img.Digest, img.Config, img.Reference = parts[0].Digest, parts[0].Config, parts[0].Reference
		return nil
	}
	var base []byte
	labels := make(map[string]string)
	for _, p := range parts {
		maps.Copy(labels, p.Labels)
		if p.Config != nil {
			base = p.Config
		}
	}
	config, err := configFor(base, img.Layers)
	if err == nil {
		config, err = addLabels(config, labels)
	}
	if err != nil {
		return err
	}
	img.Labels = labels
	img.Config, img.Digest = config, sha256Of(config)
	return nil
}

// configFor returns base with other layers. Without base, the architecture is
// unknown: what a directory holds does not depend on the machine that reads it.
func configFor(base []byte, layers []*Layer) ([]byte, error) {
	fields := map[string]json.RawMessage{
		"architecture": json.RawMessage(`"unknown"`),
		"config":       json.RawMessage(`{}`),
		"os":           json.RawMessage(`"linux"`),
	}
	if base != nil {
		clear(fields)
		if err := json.Unmarshal(base, &fields); err != nil {
			return nil, fmt.Errorf("image configuration: %w", err)
		}
	}
	delete(fields, "history") // it would have to speak of all layers
	rootfs := struct {
		DiffIDs []v1.Hash `json:"diff_ids"`
		Type    string    `json:"type"`
	}{make([]v1.Hash, 0, len(layers)), "layers"}
	for _, l := range layers {
		rootfs.DiffIDs = append(rootfs.DiffIDs, l.DiffID)
	}
	var err error
	if fields["rootfs"], err = json.Marshal(rootfs); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// diffIDs returns the layers that a configuration lists.
func diffIDs(config []byte) ([]v1.Hash, error) {
	parsed, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	ids := parsed.RootFS.DiffIDs
	if len(ids) > maxLayers {
		return nil, fmt.Errorf("image configuration: %d layers: at most %d are supported", len(ids), maxLayers)
	}
	for _, id := range ids {
		if err := checkHash(id); err != nil {
			return nil, fmt.Errorf("image configuration: diff ID: %w", err)
		}
	}
	return ids, nil
}

// checkHash accepts what sha256Of can have returned.
func checkHash(h v1.Hash) error {
	if h.Algorithm != "sha256" {
		return fmt.Errorf("digest %q: only sha256 is supported", h)
	}
	if raw, err := hex.DecodeString(h.Hex); err != nil || len(raw) != sha256.Size {
		return errors.New("digest of wrong length")
	}
	return nil
}

func sha256Of(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return hashOf(sum[:])
}

func hashOf(sum []byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)}
}
