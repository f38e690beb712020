// Package npm reads lock files of npm (package-lock.json, versions 2 and 3), and installs
// the packages that they name into archives, by npm's rules and running nothing of them.
package npm

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/flatten"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
)

// Bounds of a lock.
const (
	MaxBytes    = 32 << 20
	MaxPackages = 50_000
)

// A Package is one place of a lock's tree. What npm links or takes from elsewhere than a
// registry is not supported.
type Package struct {
	Path    string // below the folder of the lock: node_modules/a/node_modules/b
	Name    string
	Version string
	URL     string            // as the lock has it; "": it is the registry's, see Address
	SHA512  string            // of the tarball, in hexadecimal
	Bin     map[string]string // names of programs to files of the package
	Scripts bool              // it has install scripts, which are not run
	Needs   []string          // names of what it depends on
}

type entry struct {
	Name         string            `json:"name"`
	Version      string            `json:"version"`
	Resolved     string            `json:"resolved"`
	Integrity    string            `json:"integrity"`
	Link         bool              `json:"link"`
	Dev          bool              `json:"dev"`
	Optional     bool              `json:"optional"`
	DevOptional  bool              `json:"devOptional"`
	Bundled      bool              `json:"inBundle"`
	Scripts      bool              `json:"hasInstallScript"`
	OS           []string          `json:"os"`
	CPU          []string          `json:"cpu"`
	Libc         []string          `json:"libc"`
	Bin          map[string]string `json:"bin"`
	Dependencies map[string]string `json:"dependencies"`
}

var namePattern = lateregexp.New(`^(?:@[a-z0-9~A-Z_-][a-zA-Z0-9._~-]{0,100}/)?[a-zA-Z0-9_~-][a-zA-Z0-9._~-]{0,213}$`)

var versionPattern = lateregexp.New(`^[0-9A-Za-z][0-9A-Za-z.+-]{0,255}$`)

// Platform is what a package's os, cpu and libc are held against.
type Platform struct{ OS, CPU, Libc string }

// Parse returns the packages of a lock that are installed for use, not development, on
// that platform, a package before those in it.
func Parse(data []byte, on Platform) ([]Package, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("lock of %d bytes: at most %d are supported", len(data), MaxBytes)
	}
	var l struct {
		Version  int              `json:"lockfileVersion"`
		Packages map[string]entry `json:"packages"`
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("no package-lock.json: %w", err)
	}
	if l.Version != 2 && l.Version != 3 {
		return nil, fmt.Errorf("package-lock.json of version %d: 2 and 3 are supported; 'npm install --package-lock-only' writes 3", l.Version)
	}
	if len(l.Packages) > MaxPackages {
		return nil, fmt.Errorf("lock of %d packages: at most %d are supported", len(l.Packages), MaxPackages)
	}
	var out []Package
	for _, at := range slices.SortedFunc(maps.Keys(l.Packages), flatten.ComparePaths) {
		e := l.Packages[at]
		if at == "" || e.Dev || e.Bundled || e.DevOptional {
			continue // the project itself, or not for use, or in another's tarball
		}
		if !suits(e.OS, on.OS) || !suits(e.CPU, on.CPU) || !suits(e.Libc, on.Libc) {
			if e.Optional {
				continue
			}
			return nil, fmt.Errorf("package %.200q is not for %s on %s with %s", at, on.OS, on.CPU, on.Libc)
		}
		p, err := packageOf(at, &e)
		if err != nil {
			return nil, fmt.Errorf("package %.200q: %w", at, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// suits is npm's rule for os, cpu and libc.
func suits(list []string, have string) bool {
	wanted := false
	for _, v := range list {
		if v == "any" || v == have {
			return true
		}
		if not, ok := strings.CutPrefix(v, "!"); !ok {
			wanted = true
		} else if not == have {
			return false
		}
	}
	return !wanted
}

func packageOf(at string, e *entry) (Package, error) {
	p := Package{Path: at, Version: e.Version, Scripts: e.Scripts, Bin: e.Bin, Name: e.Name}
	last := ""
	for part := range strings.SplitSeq("/"+at, "/node_modules/") {
		if last != "" || part != "" {
			if !namePattern().MatchString(part) {
				return p, errors.New("not a place for a package")
			}
			last = part
		}
	}
	if last == "" {
		return p, errors.New("not a place for a package")
	}
	if p.Name == "" {
		p.Name = last
	}
	u, err := url.Parse(e.Resolved)
	if e.Link || err != nil || e.Resolved != "" && u.Scheme != "https" && u.Scheme != "http" {
		return p, errors.New("it comes from no registry; only packages of registries are installed")
	}
	if !namePattern().MatchString(p.Name) || !versionPattern().MatchString(p.Version) {
		return p, fmt.Errorf("name %.100q or version %.100q", p.Name, p.Version)
	}
	p.URL = e.Resolved
	for hash := range strings.FieldsSeq(e.Integrity) {
		encoded, ok := strings.CutPrefix(hash, "sha512-")
		sum, err := base64.StdEncoding.DecodeString(encoded)
		if ok && err == nil && len(sum) == 64 {
			p.SHA512 = hex.EncodeToString(sum)
		}
	}
	if p.SHA512 == "" {
		return p, errors.New("the lock has no SHA-512 of it")
	}
	for name, file := range p.Bin {
		if !namePattern().MatchString(name) || strings.Contains(name, "/") || !inside(file) {
			return p, fmt.Errorf("program %.100q", name)
		}
	}
	p.Needs = slices.Sorted(maps.Keys(e.Dependencies))
	return p, nil
}

// Registry is where packages come from unless somebody says otherwise.
const Registry = "https://registry.npmjs.org/"

// Address returns where a package's tarball is. As with npm, what a lock says of the common
// registry, or leaves out, is looked for in registry, an address that ends in "/".
func (p *Package) Address(registry string) string {
	if p.URL == "" {
		_, base, scoped := strings.Cut(p.Name, "/")
		if !scoped {
			base = p.Name
		}
		return registry + p.Name + "/-/" + base + "-" + p.Version + ".tgz"
	}
	if rest, ok := strings.CutPrefix(p.URL, Registry); ok {
		return registry + rest
	}
	return p.URL
}

func inside(file string) bool {
	return file != "" && !strings.HasPrefix(path.Clean("./"+file), "..") && !path.IsAbs(file) && strings.IndexByte(file, 0) < 0
}

// Limits bounds a tarball. What a zip file may have is a tarball's bound too.
var Limits = flatten.Limits{MaxEntries: 1_000_000, MaxFileBytes: 8 << 30, MaxLayerBytes: 8 << 30, MaxMetadataBytes: 256 << 20}

// Write writes what npm makes of a package's tarball, in the folder dir of an image, as a
// canonical archive. Data go through spool, which is empty. Files belong to root; links in a tarball are left out,
// as npm does. It returns the paths of files and links.
func (p *Package) Write(ctx context.Context, tarball io.Reader, dir string, spool flatten.Spool, out io.Writer) (files []string, err error) {
	z, err := gzip.NewReader(tarball)
	if err != nil {
		return nil, fmt.Errorf("tarball: %w", err)
	}
	in, give := io.Pipe()
	done := make(chan error, 1)
	go func() {
		n, err := p.rewrite(z, dir, give)
		files = n
		done <- err
		_ = give.CloseWithError(err)
	}()
	layer, err := flatten.ReadLayer(ctx, in, spool, Limits)
	_ = in.CloseWithError(errors.New("not read further"))
	if written := <-done; written != nil && err != nil {
		err = written
	}
	if err != nil {
		return nil, fmt.Errorf("tarball: %w", err)
	}
	return files, flatten.WriteArchive(out, layer)
}

// rewrite copies a tarball's files to where they belong.
func (p *Package) rewrite(r io.Reader, dir string, to io.Writer) (files []string, err error) {
	home := path.Join(dir, p.Path)
	programs := make(map[string]bool)
	for _, file := range p.Bin {
		programs[path.Join(home, file)] = true
	}
	w := tar.NewWriter(to)
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue // npm makes folders as files need them, and no links
		}
		_, name, ok := strings.Cut(strings.TrimPrefix(h.Name, "./"), "/")
		if !ok || !inside(name) || slices.Contains(strings.Split(h.Name, "/"), "..") {
			return nil, &flatten.EntryError{Path: h.Name, Err: errors.New("a file outside of the package's folder")}
		}
		if strings.HasPrefix(path.Base(name), ".wh.") {
			return nil, &flatten.EntryError{Path: h.Name, Err: errors.New(`name that begins with ".wh.": in a layer it would hide a file`)}
		}
		at := path.Join(home, name)
		mode := int64(0o644)
		if h.Mode&0o111 != 0 || programs[at] {
			mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: at, Typeflag: tar.TypeReg, Mode: mode, Size: h.Size, ModTime: h.ModTime, Format: tar.FormatPAX}); err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, t); err != nil {
			return nil, err
		}
		files = append(files, at)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Bin)) {
		bin, target := p.link(dir, name)
		if err := w.WriteHeader(&tar.Header{Name: bin, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}); err != nil {
			return nil, err
		}
		files = append(files, bin)
	}
	return files, w.Close()
}

// link returns a program's link in the folder .bin beside the package, and where it leads.
func (p *Package) link(dir, name string) (bin, target string) {
	i := strings.LastIndex("/"+p.Path, "/node_modules/") + len("/node_modules/") - 1
	modules, own := p.Path[:i], p.Path[i:]
	return path.Join(dir, modules, ".bin", name), path.Join("..", own, p.Bin[name])
}
