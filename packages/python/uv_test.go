package python

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/sandbox"
)

func TestArrange(t *testing.T) {
	wheels := []lock.Wheel{{URL: "https://host/x-1-py3-none-any.whl"}}
	l := &lock.Lock{Packages: []lock.Package{{Name: "Flask", Wheels: wheels}, {Name: "jinja2", Wheels: wheels}, {Name: "markupsafe", Wheels: wheels}, {Name: "there", Wheels: wheels}}}
	answer := &uvAnswer{
		Missing: []string{"flask==3", "jinja2==3", "markupsafe==2"},
		Via:     "flask==3       # via -r /run/rivulet/requirements/specs.txt\njinja2==3  # via flask\nmarkupsafe==2  # via flask, jinja2\nthere==1  # via flask\n",
	}
	if err := (&UV{}).arrange(l, answer, Request{}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range l.Packages {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "markupsafe jinja2 Flask" || len(l.Packages[2].Dependencies) != 2 {
		t.Errorf("order %s: %+v", got, l.Packages)
	}
	if got := l.Tool.Rivulet.Requested; len(got) != 1 || got[0] != "flask" {
		t.Errorf("requested %v", got)
	}
	l = &lock.Lock{Packages: []lock.Package{{Name: "a", Version: "1"}}}
	if err := (&UV{}).arrange(l, &uvAnswer{Missing: []string{"a==1"}}, Request{}); err == nil || !strings.Contains(err.Error(), "no wheel of a 1") {
		t.Errorf("without a wheel: %v", err)
	}
}

func TestExplainedByUV(t *testing.T) {
	e := &sandbox.Error{Reason: "exit status 1", Output: "Using Python 3.11 environment at: /usr\n  × No solution found when resolving dependencies:\n  ╰─▶ Because there is no version of a and you require a, we can conclude\n      that your requirements are unsatisfiable.\n"}
	want := "No solution found when resolving dependencies: Because there is no version of a and you require a, we can conclude that your requirements are unsatisfiable."
	if got := explainedByUV(e).Error(); got != want {
		t.Errorf("got %q", got)
	}
	e.Output = "memory allocation of 8366822 bytes failed\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n"
	err := explainedByUV(e)
	if got := err.Error(); !strings.Contains(got, "1024 MiB") || !strings.HasSuffix(got, "use pip: exit status 1: memory allocation of 8366822 bytes failed") {
		t.Errorf("got %q", got)
	}
	if cause := new(sandbox.Error); !errors.As(err, &cause) {
		t.Errorf("%v has no cause", err)
	}
}

func TestUVSettings(t *testing.T) {
	u := &UV{Resolver: &Resolver{env: []string{"PIP_INDEX_URL=https://a/simple", "PIP_PRE=1", "PIP_NO_DEPS=1"}}}
	u.configure([]string{"UV_INDEX=https://b", "UV_CACHE_DIR=/x", "HOME=/y"})
	if got := strings.Join(u.env, " "); got != "UV_DEFAULT_INDEX=https://a/simple UV_PRERELEASE=allow UV_INDEX=https://b" {
		t.Errorf("got %q", got)
	}
}

// TestUVLogin looks for logins in uv's own variables.
func TestUVLogin(t *testing.T) {
	u := &UV{Resolver: &Resolver{}}
	u.configure([]string{"UV_DEFAULT_INDEX=https://a:b@one/simple", "UV_INDEX=https://two/x ours=https://c:d@three/simple?x=y"})
	for host, want := range map[string]string{"one": "a:b", "two": "", "three": "c:d", "four": ""} {
		got := ""
		if l := u.Login(host); l != nil {
			got = l.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
}

// TestNewUV takes a script for uv, which is run in a folder that has nobody's environment.
func TestNewUV(t *testing.T) {
	if _, err := NewResolver(context.Background()); err != nil {
		t.Skip("needs pip:", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "uv"), []byte("#!/bin/sh\npwd\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Chdir(dir)
	u, err := NewUV(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if u.program != "/" {
		t.Errorf("it runs in %s", u.program)
	}
}

// TestRequirementsAreHidden has a file of requirements, which may have a password in it, copied.
func TestRequirementsAreHidden(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.txt")
	if err := os.WriteFile(file, []byte("--index-url https://a:b@host/simple\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	temp, err := scratch.Make(t.TempDir(), "requirements")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = temp.Remove() }()
	c, err := newCollector(temp.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.arguments(Request{Files: []string{file}}, ""); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{temp.Path: 0, c.dir: 0o055, filepath.Join(c.dir, "0.txt"): 0o044} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() & 0o077; got != want {
			t.Errorf("%s: others may %o, want %o", path, got, want)
		}
	}
}
