package python

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/packages/sandbox"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

func target() *Target {
	return &Target{
		Executable: "/usr/bin/python3", Build: "3.11.2 (main)", Version: "3.11.2", CacheTag: "cpython-311", Name: "cpython",
		System: "linux", Machine: "x86_64", Libc: "glibc 2.36", Purelib: "/usr/local/lib/python3.11/dist-packages",
		Platlib: "/usr/local/lib/python3.11/dist-packages", Scripts: "/usr/local/bin", Data: "/usr/local", Include: "/usr/local/include/python3.11",
	}
}

func TestSupports(t *testing.T) {
	for tag, want := range map[string]bool{
		"py3-none-any": true, "py2-none-any": false, "py311-none-any": true, "py312-none-any": false, "py38-none-any": true,
		"cp311-cp311-manylinux_2_17_x86_64": true, "cp311-cp311-manylinux2014_x86_64": true, "cp311-cp311-manylinux_2_36_x86_64": true,
		"cp311-cp311-manylinux_2_39_x86_64": false, "cp311-cp311-manylinux_2_17_aarch64": false, "cp311-cp311-musllinux_1_1_x86_64": false,
		"cp311-cp311-linux_x86_64": true, "cp310-cp310-linux_x86_64": false, "cp311-cp311t-linux_x86_64": false,
		"cp38-abi3-manylinux1_x86_64": true, "cp312-abi3-manylinux1_x86_64": false, "cp311-none-any": true, "cp310-none-any": false,
		"pp311-pypy311_pp73-manylinux1_x86_64": false, "cp311-cp311-win_amd64": false, "cp311-cp311-macosx_11_0_x86_64": false,
		"py3-none-manylinux_2_5_x86_64": true, "cp3-none-any": true, "cp311-cp311-manylinux_x86_64": false,
	} {
		p := strings.Split(tag, "-")
		if got := target().Supports(wheel.Tag{Python: p[0], ABI: p[1], Platform: p[2]}); got != want {
			t.Errorf("%s: %v, want %v", tag, got, want)
		}
	}
	musl := target()
	musl.Libc = ""
	if musl.Takes("a-1-cp311-cp311-manylinux1_x86_64.whl") || !musl.Takes("a-1-py3-none-any.whl") || musl.Takes("a") {
		t.Error("an image without glibc")
	}
}

func TestCheck(t *testing.T) {
	if err := target().Check(); err != nil {
		t.Error(err)
	}
	for _, change := range []func(*Target){
		func(t *Target) { t.Purelib = "usr" }, func(t *Target) { t.Scripts = "/usr/../etc" }, func(t *Target) { t.CacheTag = "a/../../b" },
		func(t *Target) { t.Version = "3" }, func(t *Target) { t.Machine = "x\ny" }, func(t *Target) { t.Executable = "" },
	} {
		bad := target()
		change(bad)
		if bad.Check() == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}

func TestLayout(t *testing.T) {
	l := target().Layout("A.b", "1.0", false)
	if l.Purelib != "usr/local/lib/python3.11/dist-packages" || l.PathFile != "" || l.Check() != nil {
		t.Errorf("%+v", l)
	}
	l = target().Layout("A.b", "1.0", true)
	if l.Purelib != "packages/a-b==1.0" || l.PathFile != "usr/local/lib/python3.11/dist-packages/a-b==1.0.pth" || l.Check() != nil {
		t.Errorf("apart: %+v", l)
	}
}

func TestConfigure(t *testing.T) {
	var r Resolver
	r.configure("global.index-url='https://u:p@own.example/simple'\nglobal.extra-index-url='\\nhttps://a/\\nhttps://b/'\n:env:.x='y'\ninstall.timeout='7'\nglobal.find-links='/opt/wheels'\n",
		[]string{"PIP_TIMEOUT=9", "PIP_CERT=/etc/certs.pem", "HTTPS_PROXY=http://proxy:1", "PIP_TARGET=/x", "SECRET=1"})
	want := []string{"PIP_INDEX_URL=https://u:p@own.example/simple", "PIP_EXTRA_INDEX_URL= https://a/ https://b/", "PIP_TIMEOUT=9"}
	if !slices.Equal(r.env, want) || r.certs != "/etc/certs.pem" {
		t.Errorf("got %q, %q", r.env, r.certs)
	}
	if u := r.Login("own.example"); u == nil || u.String() != "u:p" || r.Login("a") != nil {
		t.Errorf("login %v", u)
	}
}

func TestCollector(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	top := write("a.txt", "six\n-r sub/b.txt # more\n--constraint=c.txt\n-r https://host/x.txt\n")
	write("sub/b.txt", "idna\n-r ../a.txt\n")
	write("c.txt", "six<2\n")
	c := collector{dir: out, files: make(map[string]string)}
	name, err := c.add(top)
	if err != nil || len(c.files) != 3 {
		t.Fatalf("%v: %v", c.files, err)
	}
	got, err := os.ReadFile(filepath.Join(out, name))
	if want := "six\n-r 1.txt # more\n--constraint=2.txt\n-r https://host/x.txt\n"; err != nil || string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := c.add(write("big.txt", strings.Repeat("#", maxRequirementBytes+1))); err == nil {
		t.Error("a file that is too large: no error")
	}
}

func TestExplained(t *testing.T) {
	e := &sandbox.Error{Reason: "exit status 1", Output: "WARNING: x\nERROR: Could not find a version that satisfies x\nERROR: No matching distribution found for x\n"}
	if got := explained(e).Error(); got != "Could not find a version that satisfies x" {
		t.Errorf("got %q", got)
	}
	other := &sandbox.Error{Reason: "took too long", Output: "Traceback\nValueError: x"}
	if got := explained(other).Error(); got != "took too long: ValueError: x" {
		t.Errorf("got %q", got)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 'a', 0, 0, 0, 0}, 2)
	f.Add([]byte{255, 255, 255, 255, 'a'}, 1)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		n &= 0xff
		code, err := receive(bytes.NewReader(data), n)
		if err != nil {
			return
		}
		total := 0
		for _, c := range code {
			total += len(c) + binary.Size(uint32(0))
		}
		if len(code) != n || total > len(data) {
			t.Errorf("%d modules of %d bytes out of %d", len(code), total, len(data))
		}
	})
}
