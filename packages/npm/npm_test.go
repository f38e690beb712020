package npm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

var (
	linux     = Platform{"linux", "x64", "glibc"}
	integrity = "sha512-" + base64.StdEncoding.EncodeToString(make([]byte, 64))
)

func lockOf(packages ...string) []byte {
	return fmt.Appendf(nil, `{"name": "x", "lockfileVersion": 3, "packages": {"": {"name": "x"}, %s}}`, strings.Join(packages, ","))
}

func entryOf(at, more string) string {
	return fmt.Sprintf(`%q: {"version": "1.0.0", "resolved": "https://host/a.tgz", "integrity": %q%s}`, at, integrity, more)
}

func TestParse(t *testing.T) {
	list, err := Parse(lockOf(
		entryOf("node_modules/b", `, "bin": {"b": "cli.js"}, "hasInstallScript": true`), entryOf("node_modules/b/node_modules/@s/a", `, "dependencies": {"z": "1", "b": "2"}`),
		entryOf("node_modules/dev", `, "dev": true`), entryOf("node_modules/mac", `, "optional": true, "os": ["darwin"]`),
		entryOf("node_modules/notmac", `, "os": ["!darwin"], "cpu": ["x64", "arm64"]`), entryOf("node_modules/musl", `, "optional": true, "libc": ["musl"]`),
		entryOf("node_modules/alias", `, "name": "real"`),
	), linux)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list {
		got = append(got, p.Path+"="+p.Name)
	}
	want := "node_modules/alias=real node_modules/b=b node_modules/b/node_modules/@s/a=@s/a node_modules/notmac=notmac"
	if strings.Join(got, " ") != want || !list[1].Scripts || strings.Join(list[2].Needs, " ") != "b z" || list[0].SHA512 != strings.Repeat("0", 128) {
		t.Errorf("got %q, want %q", got, want)
	}
	for text, want := range map[string]string{
		"x":                                 "no package-lock.json",
		`{"lockfileVersion": 1}`:            "2 and 3 are supported",
		string(lockOf(entryOf("../a", ""))): "not a place",
		string(lockOf(entryOf("node_modules/../../a", ""))):                                                    "not a place",
		string(lockOf(entryOf("node_modules/a/lib", ""))):                                                      "not a place",
		string(lockOf(entryOf("packages/a", ""))):                                                              "not a place",
		string(lockOf(`"node_modules/a": {"version": "1", "resolved": "git+ssh://x", "integrity": "x"}`)):      "from no registry",
		string(lockOf(`"node_modules/a": {"resolved": "packages/a", "link": true}`)):                           "from no registry",
		string(lockOf(`"node_modules/a": {"version": "1", "resolved": "https://h/a", "integrity": "sha1-x"}`)): "no SHA-512",
		string(lockOf(entryOf("node_modules/a", `, "os": ["win32"]`))):                                         "is not for linux",
		string(lockOf(entryOf("node_modules/a", `, "bin": {"../x": "a"}`))):                                    "program",
		string(lockOf(entryOf("node_modules/a", `, "bin": {"x": "../../a"}`))):                                 "program",
	} {
		if _, err := Parse([]byte(text), linux); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		p    Package
		want string
	}{
		{Package{Name: "a", Version: "1.0.0"}, "https://own/npm/a/-/a-1.0.0.tgz"},
		{Package{Name: "@s/a", Version: "1.0.0"}, "https://own/npm/@s/a/-/a-1.0.0.tgz"},
		{Package{Name: "a", URL: "https://registry.npmjs.org/a/-/a-1.0.0.tgz"}, "https://own/npm/a/-/a-1.0.0.tgz"},
		{Package{Name: "a", URL: "https://else/a.tgz"}, "https://else/a.tgz"},
	} {
		if got := c.p.Address("https://own/npm/"); got != c.want {
			t.Errorf("%+v: %s", c.p, got)
		}
	}
}

func tarballOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, h := range headers {
		body := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Size, h.Linkname = int64(len(body)), ""
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, body); err != nil {
				t.Fatal(err)
			}
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

// file is a file of a tarball; write puts the content where its header has a link's target.
func file(name, content string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Linkname: content}
}

func write(t testing.TB, p *Package, tarball []byte) (string, error) {
	t.Helper()
	spool, err := os.CreateTemp(t.TempDir(), "spool")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = spool.Close() }()
	var out bytes.Buffer
	n, err := p.Write(context.Background(), bytes.NewReader(tarball), "var/task", spool, &out)
	if err != nil {
		return "", err
	}
	var list []string
	r := tar.NewReader(&out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s %o %s%s", h.Name, h.Mode, data, h.Linkname))
	}
	if len(list) != len(n) {
		t.Errorf("%d files, said to be %q", len(list), n)
	}
	return strings.Join(list, "\n"), nil
}

func TestWrite(t *testing.T) {
	p := &Package{Path: "node_modules/b/node_modules/@s/a", Bin: map[string]string{"run": "./cli.js"}}
	got, err := write(t, p, tarballOf(t,
		file("package/package.json", "{}", 0o600), file("package/cli.js", "#!", 0o644), file("package/lib/x.sh", "x", 0o775),
		tar.Header{Name: "package/dir/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "package/evil", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		tar.Header{Name: "package/evil2", Typeflag: tar.TypeLink, Linkname: "package/cli.js"},
	))
	home := "var/task/node_modules/b/node_modules/"
	want := home + ".bin/run 777 ../@s/a/cli.js\n" + home + "@s/a/cli.js 755 #!\n" + home + "@s/a/lib/x.sh 755 x\n" + home + "@s/a/package.json 644 {}"
	if err != nil || got != want {
		t.Errorf("%v: got\n%s\nwant\n%s", err, got, want)
	}
	for _, bad := range []tar.Header{file("package/../../x", "", 0), file("../x/y", "", 0), file("x", "", 0), file("package/.wh.x", "", 0), file("package//etc/../../../x", "", 0)} {
		if got, err := write(t, p, tarballOf(t, bad)); err == nil {
			t.Errorf("%s: %s", bad.Name, got)
		}
	}
	whole := tarballOf(t, file("package/a", strings.Repeat("x", 10_000), 0o644))
	if _, err := write(t, p, whole[:len(whole)/2]); err == nil {
		t.Error("a tarball that is cut off: no error")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(lockOf(entryOf("node_modules/b/node_modules/@s/a", `, "bin": {"b": "cli.js"}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Parse(data, linux)
		if err != nil {
			return
		}
		for i := range list {
			p := &list[i]
			for name := range p.Bin {
				if bin, target := p.link("d", name); !strings.HasPrefix(bin, "d/node_modules/") || strings.HasPrefix(target, "../..") {
					t.Errorf("link %s to %s", bin, target)
				}
			}
			if strings.Contains(p.Path, "..") && strings.Contains("/"+p.Path+"/", "/../") {
				t.Errorf("path %s", p.Path)
			}
		}
	})
}

func FuzzWrite(f *testing.F) {
	f.Add(tarballOf(f, file("package/a", "x", 0o644)))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := write(t, &Package{Path: "node_modules/a"}, data)
		if err != nil {
			return
		}
		for line := range strings.Lines(got) {
			if strings.HasPrefix(line, "var/task/") && !strings.HasPrefix(line, "var/task/node_modules/a/") {
				t.Errorf("a file at %s", line)
			}
		}
	})
}
