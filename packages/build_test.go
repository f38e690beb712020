package packages

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sourceOf writes a source distribution whose build backend, in the archive, is code.
func sourceOf(t testing.TB, name, code string) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for file, text := range map[string]string{
		"pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n",
		"backend.py":     code,
	} {
		err := w.WriteHeader(&tar.Header{Name: name + "-1/" + file, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})
		if err == nil {
			_, err = w.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), name+"-1.tar.gz")
	if err := errors.Join(w.Close(), z.Close(), os.WriteFile(file, buf.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestBuild builds source distributions: one gives a wheel, the others something else.
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("pip and the image's Python do the work")
	}
	p := newPython(t, t.TempDir())
	_, data := wheelOf(t, "built", "1", nil, map[string]string{"built.py": "x = 1\n"})
	give := "def build_wheel(to, settings=None, metadata=None):\n    print('noise')\n    import base64\n    data = base64.b64decode('" +
		base64.StdEncoding.EncodeToString(data) + "')\n    open(to + '/' + NAME, 'wb').write(data)\n    return NAME\n"
	ctx := context.Background()
	file := sourceOf(t, "built", "NAME = 'built-1-py3-none-any.whl'\n"+give)
	img, err := p.Open(ctx, []string{"sdist:" + file}, below)
	if err != nil {
		t.Fatal(err)
	}
	if text := img.Labels[Label]; strings.Contains(text, filepath.Dir(file)) || !strings.Contains(text, "built-1.tar.gz") {
		t.Errorf("lock: %s", text)
	}
	found := false
	for path, data := range read(t, img.Layers[0]) {
		found = found || strings.HasSuffix(path, "/built.py") && data == "x = 1\n"
	}
	if !found {
		t.Error("the module is not there")
	}
	// Its lock, beside the file, gives the same.
	at := filepath.Join(filepath.Dir(file), "pylock.toml")
	if err := os.WriteFile(at, []byte(img.Labels[Label]), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := newPython(t, t.TempDir()).Open(ctx, []string{"pylock:" + at}, below)
	if err != nil || !slices.Equal(diffIDs(again), diffIDs(img)) || again.Labels[Label] != img.Labels[Label] {
		t.Errorf("from the lock: %v", err)
	}
	for name, c := range map[string][2]string{
		"other":   {"NAME = 'built-1-py3-none-any.whl'\n" + give, "the wheel is built 1"},
		"foreign": {"NAME = 'foreign-1-cp27-cp27mu-linux_x86_64.whl'\n" + give, "is not for the Python of the image"},
		"outside": {"NAME = '../x'\n" + give, "the build gave no wheel"},
		"fails":   {"def build_wheel(*a):\n    raise ValueError('no\\nreason')\n", "build: exit status 1: reason"},
		"asks":    {"def get_requires_for_build_wheel(*a):\n    return 7\n", "TypeError"},
	} {
		_, err := p.Open(ctx, []string{"sdist:" + sourceOf(t, name, c[0])}, below)
		if err == nil || !strings.Contains(err.Error(), c[1]) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, c[1])
		}
	}
	if left, err := os.ReadDir(p.TempDir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
