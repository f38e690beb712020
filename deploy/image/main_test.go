package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestImage makes the same image twice, and one with other programs.
func TestImage(t *testing.T) {
	digests := map[string]int{}
	for _, version := range []string{"1", "1", "2"} {
		bin, out := t.TempDir(), filepath.Join(t.TempDir(), "image")
		for _, name := range programs {
			if err := os.WriteFile(filepath.Join(bin, name), []byte(name+version), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := write(bin, out, "arm64", "a"); err != nil {
			t.Fatal(err)
		}
		index, err := layout.ImageIndexFromPath(out)
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil || len(manifest.Manifests) != 1 {
			t.Fatalf("%+v, %v", manifest, err)
		}
		d := manifest.Manifests[0]
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img); err != nil {
			t.Error(err)
		}
		config, err := img.ConfigFile()
		if err != nil || config.OS != "linux" || config.Architecture != "arm64" || len(config.Config.Entrypoint) != 1 || d.Annotations["org.opencontainers.image.ref.name"] != "a" {
			t.Errorf("%+v of %+v, %v", config, d, err)
		}
		digests[d.Digest.String()]++
	}
	if len(digests) != 2 {
		t.Errorf("images are %v", digests)
	}
	if err := write(t.TempDir(), t.TempDir(), "arm64", "a"); err == nil {
		t.Error("an image of nothing")
	}
}
