// Package python finds out what Python an image has, and has it do what only it can do
// exactly: compile modules, and tell, by pip, which packages it needs.
//
// All of that runs in a sandbox (package sandbox) on the image's own tree. What an
// interpreter says is checked as any input is.
package python

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/packages/sandbox"
	"github.com/rivuletfs/rivulet/packages/wheel"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
)

// A Target is an interpreter and its installation, as an image shows them.
type Target struct {
	Executable string `json:"executable"` // absolute path
	Build      string `json:"build"`      // all that sys.version says: differs between builds of one version
	Version    string `json:"version"`    // such as "3.11.2"
	CacheTag   string `json:"cache_tag"`  // such as "cpython-311"; "" if it keeps no bytecode
	Name       string `json:"name"`       // of the implementation, "cpython"
	System     string `json:"system"`     // "linux"
	Machine    string `json:"machine"`    // "x86_64"
	Libc       string `json:"libc"`       // "glibc 2.36", or "" for another than glibc
	Purelib    string `json:"purelib"`    // absolute paths
	Platlib    string `json:"platlib"`
	Scripts    string `json:"scripts"`
	Data       string `json:"data"`
	Include    string `json:"include"`
}

//go:embed probe.py
var probeScript string

const (
	maxProbeBytes = 64 << 10
	programPath   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// environment is that of everything that runs here: nothing in it changes from one run
// to the next.
var environment = []string{programPath, "HOME=/tmp", "LANG=C.UTF-8", "PYTHONHASHSEED=0", "TZ=UTC"}

var (
	// ErrNone is returned (wrapped) for an image without Python.
	ErrNone = errors.New("the image below has no python3: packages need one")

	versionPattern = lateregexp.New(`^[0-9]+\.[0-9]+\.[0-9]+[0-9a-z+.]*$`)
	wordPattern    = lateregexp.New(`^[A-Za-z0-9_.-]{1,64}$`)
	tagPattern     = lateregexp.New(`^[A-Za-z0-9_-]{0,64}$`)
)

// Probe asks the Python in the tree at root.
func Probe(ctx context.Context, root string) (*Target, error) {
	var out bytes.Buffer
	err := sandbox.Run(ctx, sandbox.Spec{
		Root: root, Args: []string{"python3", "-I", "-c", probeScript}, Env: environment, Stdout: &out,
		Limits: sandbox.Limits{Output: maxProbeBytes, Time: time.Minute, Processes: 32},
	})
	if errors.Is(err, sandbox.ErrNoProgram) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("ask the image's python3: %w", err)
	}
	var t Target
	if err := json.Unmarshal(out.Bytes(), &t); err != nil {
		return nil, fmt.Errorf("ask the image's python3: %w", err)
	}
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("ask the image's python3: %w", err)
	}
	return &t, nil
}

// Check reports, by a nil error, whether a target has its form.
func (t *Target) Check() error {
	for _, p := range []string{t.Executable, t.Purelib, t.Platlib, t.Scripts, t.Data, t.Include} {
		if !path.IsAbs(p) || path.Clean(p) != p || len(p) > 1024 {
			return fmt.Errorf("path %.100q", p)
		}
	}
	if !versionPattern().MatchString(t.Version) || len(t.Build) > 1024 || !tagPattern().MatchString(t.CacheTag) || len(t.Libc) > 64 {
		return fmt.Errorf("version %.100q", t.Version)
	}
	for _, w := range []string{t.Name, t.System, t.Machine} {
		if !wordPattern().MatchString(w) {
			return fmt.Errorf("platform %.100q", w)
		}
	}
	return nil
}

// String names interpreter and platform.
func (t *Target) String() string {
	s := fmt.Sprintf("%s %s %s %s", t.Name, t.Version, t.System, t.Machine)
	if t.Libc != "" {
		s += " " + t.Libc
	}
	return s
}

// Layout returns where distributions are installed: where pip would, or, if apart is
// set, in the folder /packages/NAME==VERSION that a path file leads to.
func (t *Target) Layout(name, version string, apart bool) wheel.Layout {
	in := func(p string) string { return strings.TrimPrefix(p, "/") }
	l := wheel.Layout{
		Purelib: in(t.Purelib), Platlib: in(t.Platlib), Headers: in(t.Include), Scripts: in(t.Scripts), Data: in(t.Data),
		Interpreter: t.Executable, Installer: "rivulet",
	}
	if l.Data == "" {
		l.Data = "."
	}
	if apart {
		id := wheel.Normalize(name) + "==" + version
		dir := "packages/" + id
		l.PathFile = in(t.Purelib) + "/" + id + ".pth"
		l.Purelib, l.Platlib, l.Headers, l.Scripts, l.Data = dir, dir, dir+"/include", dir+"/bin", dir
	}
	return l
}

// minor returns the two numbers of the version.
func (t *Target) minor() (major, minor int) {
	parts := strings.Split(t.Version, ".")
	major, _ = strconv.Atoi(parts[0])
	minor, _ = strconv.Atoi(parts[1])
	return major, minor
}

// Supports reports whether the interpreter runs what has that tag. For interpreters other than
// CPython it knows pure Python alone.
func (t *Target) Supports(tag wheel.Tag) bool {
	return t.supportsPython(tag) && t.supportsPlatform(tag.Platform)
}

func (t *Target) supportsPython(tag wheel.Tag) bool {
	major, minor := t.minor()
	python, number := splitTag(tag.Python)
	older := func() bool { // pyM, pyMN with N at most ours
		if number == strconv.Itoa(major) {
			return true
		}
		rest, ok := strings.CutPrefix(number, strconv.Itoa(major))
		n, err := strconv.Atoi(rest)
		return ok && err == nil && n <= minor
	}
	own := fmt.Sprintf("%d%d", major, minor)
	switch {
	case tag.ABI == "none" && python == "py":
		return older()
	case t.Name != "cpython" || python != "cp":
		return false
	case tag.ABI == "none":
		return number == own || number == strconv.Itoa(major)
	case tag.ABI == "abi3":
		return older()
	}
	return number == own && tag.ABI == "cp"+own
}

func splitTag(s string) (letters, digits string) {
	i := strings.IndexFunc(s, func(r rune) bool { return r >= '0' && r <= '9' })
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

// The first glibc that a manylinux tag without numbers promises.
var oldManylinux = map[string]int{"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}

func (t *Target) supportsPlatform(platform string) bool {
	if platform == "any" {
		return true
	}
	rest, ok := strings.CutSuffix(platform, "_"+t.Machine)
	if !ok || t.System != "linux" {
		return false
	}
	if rest == "linux" {
		return true
	}
	version, ok := strings.CutPrefix(t.Libc, "glibc ")
	if !ok {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return false
	}
	if want, ok := oldManylinux[rest]; ok {
		return major == 2 && minor >= want
	}
	var wantMajor, wantMinor int
	if n, err := fmt.Sscanf(rest, "manylinux_%d_%d", &wantMajor, &wantMinor); err != nil || n != 2 {
		return false
	}
	return major == wantMajor && minor >= wantMinor
}
