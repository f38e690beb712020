package wheel

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/flatten/zipfile"
)

var layout = Layout{
	Purelib: "usr/lib/python3/pure", Platlib: "usr/lib/python3/plat", Headers: "usr/include/python3.11",
	Scripts: "usr/bin", Data: "usr", Interpreter: "/usr/bin/python3", Installer: "rivulet",
}

// files is a good wheel's content; a test changes a copy of it.
func files() map[string]string {
	return map[string]string{
		"pkg/__init__.py":               "x = 1\n",
		"pkg/sub/data.bin":              "\x00\x01",
		"Pkg_A-1.0.dist-info/WHEEL":     "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"Pkg_A-1.0.dist-info/METADATA":  "Metadata-Version: 2.1\nName: Pkg.A\nVersion: 1.0\nRequires-Python: >=3.8\nRequires-Dist: six (>=1)\nRequires-Dist: dep; extra == 'x'\n\nText: with a colon\n",
		"Pkg_A-1.0.dist-info/INSTALLER": "other\n",
		"Pkg_A-1.0.dist-info/entry_points.txt": "[console_scripts]\nrun-it = pkg.sub:main.go [extra]\n; comment\n[gui_scripts]\nwin=pkg:f\n" +
			"[other]\nnot = ../a b\n",
		"Pkg_A-1.0.data/scripts/tool":      "#!python -E\nprint()\n",
		"Pkg_A-1.0.data/scripts/plain":     "#!/bin/sh\n",
		"Pkg_A-1.0.data/platlib/fast.so":   "ELF",
		"Pkg_A-1.0.data/purelib/other.py":  "",
		"Pkg_A-1.0.data/headers/h.h":       "int x;",
		"Pkg_A-1.0.data/data/share/man/m1": "text",
	}
}

// build writes a wheel with a RECORD that is right, but for the lines in record, which
// take the place of those of their paths; "" leaves a path out.
func build(t testing.TB, name string, files, record map[string]string) string {
	t.Helper()
	paths := make([]string, 0, len(files))
	for p := range files {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	var list bytes.Buffer
	for _, p := range paths {
		sum := sha256.Sum256([]byte(files[p]))
		line := fmt.Sprintf("%s,sha256=%s,%d\n", p, base64.RawURLEncoding.EncodeToString(sum[:]), len(files[p]))
		if other, ok := record[p]; ok {
			line = other
		}
		list.WriteString(line)
	}
	list.WriteString(record["more"])
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	add := func(name string, data string) {
		out, err := w.Create(name)
		if err == nil {
			_, err = out.Write([]byte(data))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range paths {
		add(p, files[p])
	}
	if _, ok := record["none"]; !ok {
		add("Pkg_A-1.0.dist-info/RECORD", list.String()+"Pkg_A-1.0.dist-info/RECORD,,\n")
	}
	file := filepath.Join(t.TempDir(), name)
	if err := errors.Join(w.Close(), os.WriteFile(file, buf.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return file
}

const goodName = "pkg_a-1.0-py2.py3-none-any.whl"

func plan(t testing.TB, file string, l Layout) (*Plan, error) {
	t.Helper()
	w, err := Open(file, zipfile.Limits{})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = w.Close() })
	return w.Plan(l)
}

func install(t testing.TB, p *Plan) (content map[string]string, modes map[string]int64) {
	t.Helper()
	var buf bytes.Buffer
	if err := p.WriteArchive(context.Background(), &buf); err != nil {
		t.Fatal(err)
	}
	content, modes = make(map[string]string), make(map[string]int64)
	r := tar.NewReader(&buf)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return content, modes
		}
		var data []byte
		if err == nil {
			data, err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		content[h.Name], modes[h.Name] = string(data), h.Mode
	}
}

func TestInstall(t *testing.T) {
	l := layout
	l.PathFile = "usr/lib/python3/x.pth"
	file := build(t, goodName, files(), nil)
	p, err := plan(t, file, l)
	if err != nil {
		t.Fatal(err)
	}
	if w := p.wheel; w.Name != "Pkg.A" || w.Version != "1.0" || w.RequiresPython != ">=3.8" || len(w.Requires) != 2 || len(w.Tags) != 2 {
		t.Errorf("wheel %+v", w)
	}
	if got := len(p.Sources()); got != 2 {
		t.Errorf("%d modules, want 2", got)
	}
	if err := p.AddCompiled("usr/lib/python3/pure/pkg/__pycache__/__init__.cpython-311.pyc", flatten.Time{}, []byte("code")); err != nil {
		t.Fatal(err)
	}
	content, modes := install(t, p)
	info := "usr/lib/python3/pure/Pkg_A-1.0.dist-info/"
	for path, want := range map[string]string{
		"usr/lib/python3/pure/pkg/__init__.py":  "x = 1\n",
		"usr/lib/python3/pure/pkg/sub/data.bin": "\x00\x01",
		"usr/lib/python3/pure/other.py":         "",
		"usr/lib/python3/plat/fast.so":          "ELF",
		"usr/include/python3.11/Pkg.A/h.h":      "int x;",
		"usr/share/man/m1":                      "text",
		"usr/bin/tool":                          "#!/usr/bin/python3 -E\nprint()\n",
		"usr/bin/plain":                         "#!/bin/sh\n",
		"usr/bin/run-it":                        "#!/usr/bin/python3\nimport sys\n\nfrom pkg.sub import main\n\nif __name__ == \"__main__\":\n    sys.exit(main.go())\n",
		"usr/lib/python3/x.pth":                 "/usr/lib/python3/pure\n",
		info + "INSTALLER":                      "rivulet\n",
		"usr/lib/python3/pure/pkg/__pycache__/__init__.cpython-311.pyc": "code",
	} {
		if got, ok := content[path]; !ok || got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if len(content) != 17 {
		t.Errorf("%d files", len(content))
	}
	if modes["usr/bin/tool"] != 0o755 || modes["usr/bin/run-it"] != 0o755 || modes["usr/share/man/m1"] != 0o644 {
		t.Errorf("modes %v", modes)
	}
	// RECORD says what is there, as seen from site-packages.
	record, err := parseRecord([]byte(content[info+"RECORD"]))
	if err != nil || len(record) != len(content) {
		t.Fatalf("RECORD has %d lines: %v", len(record), err)
	}
	for path, data := range content {
		sum := sha256.Sum256([]byte(data))
		want := "sha256=" + base64.RawURLEncoding.EncodeToString(sum[:])
		if strings.HasSuffix(path, ".pyc") || strings.HasSuffix(path, "/RECORD") {
			want = ""
		}
		rel, err := filepath.Rel("usr/lib/python3/pure", path)
		if got, ok := record[rel]; err != nil || !ok || got != want {
			t.Errorf("RECORD: %s: %q, want %q", rel, got, want)
		}
	}
	again, err := plan(t, file, l)
	if err != nil {
		t.Fatal(err)
	}
	var one, two bytes.Buffer
	if err := errors.Join(again.WriteArchive(context.Background(), &one), again.WriteArchive(context.Background(), &two)); err != nil || !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Errorf("two archives of one plan differ: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		what, name string
		change     func(files, record map[string]string)
	}{
		{"the file is not listed", "", func(_, r map[string]string) { r["pkg/__init__.py"] = "" }},
		{"not what its hash says", "", func(_, r map[string]string) {
			r["pkg/__init__.py"] = "pkg/__init__.py,sha256=AAAA,6\n"
		}},
		{"listed without a hash", "", func(_, r map[string]string) { r["pkg/__init__.py"] = "pkg/__init__.py,,\n" }},
		{"only SHA-256", "", func(_, r map[string]string) { r["pkg/__init__.py"] = "pkg/__init__.py,md5=AAAA,\n" }},
		{"listed and not there", "", func(_, r map[string]string) { r["more"] = "gone.py,sha256=AAAA,1\n" }},
		{"listed twice", "", func(_, r map[string]string) { r["more"] = "pkg/__init__.py,sha256=AAAA,1\n" }},
		{"2 fields", "", func(_, r map[string]string) { r["more"] = "a,b\n" }},
		{"has no Pkg_A-1.0.dist-info/RECORD", "", func(_, r map[string]string) { r["none"] = "" }},
		{"no .dist-info", "", func(f, r map[string]string) {
			for p := range f {
				delete(f, p)
			}
			r["none"], f["a"] = "", "x"
		}},
		{"two folders of metadata", "", func(f, _ map[string]string) { f["pkg_b-1.dist-info/WHEEL"] = "" }},
		{"another distribution's", "other-1.0-py3-none-any.whl", func(_, _ map[string]string) {}},
		{"another distribution's", "pkg_a-1.1-py3-none-any.whl", func(_, _ map[string]string) {}},
		{"METADATA says", "", func(f, _ map[string]string) {
			f["Pkg_A-1.0.dist-info/METADATA"] = "Name: b\nVersion: 1.0\n\n"
		}},
		{"wheel of version", "", func(f, _ map[string]string) { f["Pkg_A-1.0.dist-info/WHEEL"] = "Wheel-Version: 2.0\n" }},
		{"data folder", "", func(f, _ map[string]string) { f["Pkg_A-1.0.data/etc/passwd"] = "" }},
		{"between the folders", "", func(f, _ map[string]string) { f["Pkg_A-1.0.data/stray"] = "" }},
		{"two files", "", func(f, _ map[string]string) { f["Pkg_A-1.0.data/purelib/pkg/__init__.py"] = "" }},
		{"want NAME = MODULE:FUNCTION", "", func(f, _ map[string]string) {
			f["Pkg_A-1.0.dist-info/entry_points.txt"] = "[console_scripts]\n../../etc/cron.d/x = a:b\n"
		}},
		{"want NAME = MODULE:FUNCTION", "", func(f, _ map[string]string) {
			f["Pkg_A-1.0.dist-info/entry_points.txt"] = "[console_scripts]\nx = a:b();import os\n"
		}},
		{"is no wheel's name", "pkg_a-1.0.whl", func(_, _ map[string]string) {}},
		{"is no wheel's name", "pkg_a-1.0-py3-none-any.zip", func(_, _ map[string]string) {}},
		{`".." in a name`, "", func(f, _ map[string]string) { f["../x"] = "" }},
	} {
		f, r := files(), map[string]string{}
		c.change(f, r)
		name := c.name
		if name == "" {
			name = goodName
		}
		if _, err := plan(t, build(t, name, f, r), layout); err == nil || !strings.Contains(err.Error(), c.what) {
			t.Errorf("%v, want %q", err, c.what)
		}
	}
	if _, err := plan(t, build(t, goodName, files(), nil), layout); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func TestLayoutRefused(t *testing.T) {
	for _, change := range []func(l *Layout){
		func(l *Layout) { l.Purelib = "/usr" }, func(l *Layout) { l.Scripts = "usr/../etc" }, func(l *Layout) { l.Data = "" },
		func(l *Layout) { l.Interpreter = "python" }, func(l *Layout) { l.Interpreter = "/a b/python" },
	} {
		l := layout
		change(&l)
		if l.Check() == nil {
			t.Errorf("%+v: no error", l)
		}
	}
}

func TestRelative(t *testing.T) {
	for _, c := range [][3]string{
		{"a/b", "a/b/c", "c"}, {"a/b", "a/c", "../c"}, {"a/b", "x", "../../x"}, {".", "x/y", "x/y"}, {"a/b", "a/b", "../b"},
	} {
		if got := relative(c[0], c[1]); got != c[2] {
			t.Errorf("relative(%q, %q) = %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

func FuzzOpen(f *testing.F) {
	data, err := os.ReadFile(build(f, goodName, files(), nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, goodName)
	f.Add([]byte("PK\x05\x06"+strings.Repeat("\x00", 18)), "a-1-2x-py3-none-any.whl")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		if _, err := parseName(name); err != nil || strings.Contains(name, "/") || len(name) > 200 {
			name = goodName
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Skip(err)
		}
		p, err := plan(t, file, layout)
		if err != nil {
			return
		}
		var buf bytes.Buffer
		if err := p.WriteArchive(context.Background(), &buf); err != nil {
			return
		}
		_, err = flatten.StreamLayer(context.Background(), &buf, func(e *flatten.Entry, r io.Reader) error {
			if !strings.HasPrefix(e.Path, "usr/") {
				t.Errorf("a file at %q", e.Path)
			}
			_, err := io.Copy(io.Discard, r)
			return err
		}, flatten.Limits{})
		if err != nil {
			t.Logf("layer refused: %v", err)
		}
	})
}

// FuzzText parses what stands in a wheel's metadata.
func FuzzText(f *testing.F) {
	for path, text := range files() {
		if strings.Contains(path, "dist-info") {
			f.Add([]byte(text))
		}
	}
	f.Add([]byte("a,sha256=x,1\n\"b,\"\"c\",,\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = parseHeaders(data)
		_, _ = parseRecord(data)
		scripts, err := parseScripts(data)
		if err != nil {
			return
		}
		for _, s := range scripts {
			if strings.ContainsAny(s.name, "/\x00\n") || strings.ContainsAny(s.module+s.attr, "\n ;()") {
				t.Errorf("script %+v", s)
			}
		}
	})
}
