package rivulet

import (
	"bytes"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFormat fails for each Go file that gofmt would change.
func TestFormat(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long under the race detector")
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		want, err := format.Source(src)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.Equal(src, want) {
			t.Errorf("%s: not as gofmt writes it", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
