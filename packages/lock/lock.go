// Package lock reads and writes lock files of Python packages: pylock.toml, as PEP 751
// has it.
//
// What is read is bounded and checked; names, versions and digests have their form. A
// field that this package does not know is left out when a lock is written again.
package lock

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
)

// Bounds of a lock.
const (
	MaxBytes    = 8 << 20
	MaxPackages = 10_000
	maxWheels   = 1_000 // of one package
)

// A Lock says which distributions are installed, and from which files.
type Lock struct {
	Version        string    `toml:"lock-version"`
	CreatedBy      string    `toml:"created-by"`
	RequiresPython string    `toml:"requires-python,omitempty"`
	Packages       []Package `toml:"packages"` // in the order of installation
	Tool           Tool      `toml:"tool,omitempty"`
}

// A Package is one distribution.
type Package struct {
	Name           string       `toml:"name"`
	Version        string       `toml:"version,omitempty"`
	Marker         string       `toml:"marker,omitempty"`
	RequiresPython string       `toml:"requires-python,omitempty"`
	Dependencies   []Dependency `toml:"dependencies,omitempty"`
	Sdist          *Wheel       `toml:"sdist,omitempty"` // source distribution, to be built where no wheel is
	Wheels         []Wheel      `toml:"wheels,omitempty"`
}

// A Dependency names a package of the same lock.
type Dependency struct {
	Name string `toml:"name"`
}

// A Wheel is a file to install a package from, a wheel or a source distribution.
type Wheel struct {
	Name   string            `toml:"name,omitempty"` // of the file; without it, the last part of URL or Path
	URL    string            `toml:"url,omitempty"`
	Path   string            `toml:"path,omitempty"` // relative to the lock's own folder
	Size   int64             `toml:"size,omitempty"`
	Hashes map[string]string `toml:"hashes"` // algorithm to hexadecimal digits; there is a SHA-256
}

// Tool is what this program keeps in a lock for itself.
type Tool struct {
	Rivulet Origin `toml:"rivulet,omitempty"`
}

// Origin says what a lock was made for.
type Origin struct {
	Requested []string `toml:"requested,omitempty"` // names of the packages that were asked for
	Target    string   `toml:"target,omitempty"`    // interpreter and platform
}

var (
	namePattern    = lateregexp.New(`^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,200}[A-Za-z0-9])?$`)
	versionPattern = lateregexp.New(`^[A-Za-z0-9](?:[A-Za-z0-9._+!-]{0,100}[A-Za-z0-9])?$`)
)

// Parse reads a lock and checks it.
func Parse(data []byte) (*Lock, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("lock of %d bytes: at most %d are supported", len(data), MaxBytes)
	}
	var l Lock
	if err := toml.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("no lock in TOML: %w", err)
	}
	if major, _, _ := strings.Cut(l.Version, "."); major != "1" {
		return nil, fmt.Errorf("lock of version %.20q: only 1.0 is supported", l.Version)
	}
	if len(l.Packages) > MaxPackages {
		return nil, fmt.Errorf("lock of %d packages: at most %d are supported", len(l.Packages), MaxPackages)
	}
	for i := range l.Packages {
		if err := l.Packages[i].check(); err != nil {
			return nil, fmt.Errorf("lock, package %.100q: %w", l.Packages[i].Name, err)
		}
	}
	return &l, nil
}

func (p *Package) check() error {
	if !namePattern().MatchString(p.Name) {
		return errors.New("not a package's name")
	}
	if p.Version != "" && !versionPattern().MatchString(p.Version) {
		return fmt.Errorf("version %.100q", p.Version)
	}
	if len(p.Wheels) > maxWheels {
		return fmt.Errorf("%d wheels: at most %d are supported", len(p.Wheels), maxWheels)
	}
	for i := range p.Wheels {
		if err := p.Wheels[i].check("wheel", ".whl"); err != nil {
			return err
		}
	}
	if p.Sdist != nil {
		return p.Sdist.check("source distribution", "")
	}
	return nil
}

func (w *Wheel) check(what, suffix string) error {
	sum, err := hex.DecodeString(w.Hashes["sha256"])
	if err != nil || len(sum) != 32 {
		return fmt.Errorf("%s %.200q has no SHA-256", what, w.FileName())
	}
	if w.URL == "" && w.Path == "" {
		return fmt.Errorf("%s %.200q has neither url nor path", what, w.FileName())
	}
	if name := w.FileName(); !strings.HasSuffix(name, suffix) || strings.ContainsAny(name, "/\\\x00") || strings.HasPrefix(name, ".") {
		return fmt.Errorf("%.200q is no %s's name", name, what)
	}
	if w.Size < 0 {
		return fmt.Errorf("%s of %d bytes", what, w.Size)
	}
	return nil
}

// FileName returns the name of the file.
func (w *Wheel) FileName() string {
	if w.Name != "" {
		return w.Name
	}
	if w.URL != "" {
		if u, err := url.Parse(w.URL); err == nil {
			return path.Base(u.Path)
		}
	}
	return path.Base(w.Path)
}

// SHA256 returns the digest of the file in hexadecimal, in lower case.
func (w *Wheel) SHA256() string { return strings.ToLower(w.Hashes["sha256"]) }

// Encode returns the lock as TOML: equal locks give equal bytes.
func (l *Lock) Encode() ([]byte, error) {
	var buf bytes.Buffer
	e := toml.NewEncoder(&buf)
	e.SetIndentTables(false)
	if err := e.Encode(l); err != nil {
		return nil, fmt.Errorf("write lock: %w", err)
	}
	return buf.Bytes(), nil
}

// Why returns how packages that were asked for come to need the package called name:
// paths of dependencies, the shortest of each package that was asked for. normalize
// gives names the form in which they are compared.
func (l *Lock) Why(name string, normalize func(string) string) [][]string {
	needs := make(map[string][]string)
	for _, p := range l.Packages {
		for _, d := range p.Dependencies {
			needs[normalize(p.Name)] = append(needs[normalize(p.Name)], normalize(d.Name))
		}
	}
	var out [][]string
	for _, r := range l.Tool.Rivulet.Requested {
		if p := shortest(needs, normalize(r), normalize(name)); p != nil {
			out = append(out, p)
		}
	}
	return out
}

func shortest(needs map[string][]string, from, to string) []string {
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at == to {
			var p []string
			for ; at != ""; at = before[at] {
				p = append([]string{at}, p...)
			}
			return p
		}
		for _, next := range needs[at] {
			if _, seen := before[next]; !seen {
				before[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}
