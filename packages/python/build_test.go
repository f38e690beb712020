package python

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sourceOf returns an archive of PATH, CONTENT pairs.
func sourceOf(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for i := 0; i < len(pairs); i += 2 {
		err := w.WriteHeader(&tar.Header{Name: pairs[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(pairs[i+1]))})
		if err == nil {
			_, err = w.Write([]byte(pairs[i+1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestOpenSource(t *testing.T) {
	legacy := []string{"setuptools>=40.8.0", "wheel"}
	for _, c := range []struct {
		name     string
		pairs    []string
		requires []string
		backend  string
		fails    string
	}{
		{"a-1.tar.gz", []string{"a-1/setup.py", ""}, legacy, "setuptools.build_meta:__legacy__", ""},
		{"a-1.tar.gz", []string{"a-1/sub/pyproject.toml", "x"}, legacy, "setuptools.build_meta:__legacy__", ""},
		{"a-1.tar.gz", []string{"a-1/pyproject.toml", "[tool.x]\ny = 1\n"}, legacy, "setuptools.build_meta:__legacy__", ""},
		{"A.b-1.0+x.tar.gz", []string{"z/pyproject.toml", "[build-system]\nrequires = ['hatchling']\nbuild-backend = 'hatchling.build'\n"}, []string{"hatchling"}, "hatchling.build", ""},
		{"a-1.tar.gz", []string{"a-1/pyproject.toml", "[build-system]\nbuild-backend = 'os;x'\n"}, nil, "", "build system"},
		{"a-1.tar.gz", []string{"a-1/pyproject.toml", "["}, nil, "", "pyproject.toml"},
		{"a-1.tar.gz", []string{"a-1/pyproject.toml", strings.Repeat("#", maxProjectBytes+1)}, nil, "", "at most"},
		{"a.tar.gz", nil, nil, "", "NAME-VERSION.tar.gz"},
		{"a-1.zip", nil, nil, "", "NAME-VERSION.tar.gz"},
	} {
		file := filepath.Join(t.TempDir(), c.name)
		if err := os.WriteFile(file, sourceOf(t, c.pairs...), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenSource(file)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s %.60q: %v, want %q", c.name, c.pairs, err, c.fails)
			}
			continue
		}
		if err != nil || !slices.Equal(s.Requires, c.requires) || s.backend != c.backend {
			t.Errorf("%s %q: %+v, %v", c.name, c.pairs, s, err)
		}
	}
}

func TestSplitBuilt(t *testing.T) {
	for text, ok := range map[string]bool{
		"\x16\x00\x00\x00a-1-py3-none-any.whl..": false, // the name ends in dots
		"\x14\x00\x00\x00a-1-py3-none-any.whlPK": true,
		"\x07\x00\x00\x00../evil":                false,
		"\xff\xff\xff\xff":                       false,
		"\x14\x00\x00\x00a-1":                    false,
		"":                                       false,
	} {
		if name, err := splitBuilt(strings.NewReader(text)); (err == nil) != ok {
			t.Errorf("%q: %q, %v", text, name, err)
		}
	}
}

// FuzzSource reads a source distribution's project file.
func FuzzSource(f *testing.F) {
	f.Add(sourceOf(f, "a/pyproject.toml", "[build-system]\nrequires = ['x']\nbuild-backend = 'y'\n"), []byte("[build-system]\n"))
	f.Fuzz(func(t *testing.T, archive, project []byte) {
		if found, err := findProject(bytes.NewReader(archive)); err == nil && len(found) > maxProjectBytes {
			t.Errorf("a project file of %d bytes", len(found))
		}
		var s Source
		if err := s.configure(project); err == nil && !backendPattern().MatchString(s.backend) {
			t.Errorf("backend %q", s.backend)
		}
	})
}
