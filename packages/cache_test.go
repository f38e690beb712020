package packages

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRemoveRest removes trees and files, and what is left of others.
func TestRemoveRest(t *testing.T) {
	c, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{c.path("bases", "ab", "root", "usr"), c.path("bases", ".cd.X", "root"), c.path("files", "ef")} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.RemoveRest(); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"bases", "files"} {
		if left, err := os.ReadDir(c.path(kind)); err != nil || len(left) > 0 {
			t.Errorf("%s: left are %v, %v", kind, left, err)
		}
	}
	if err := removeWhole(c.path("bases", "none")); err != nil {
		t.Error(err)
	}
}
