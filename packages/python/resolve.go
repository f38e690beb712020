package python

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/internal/lateregexp"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/sandbox"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

//go:embed resolve.py
var resolveScript string

//go:embed relay.py
var relayScript string

const maxAnswerBytes = 64 << 20

// A Resolver has this machine's pip resolve for images: it runs under the image's own Python,
// on the image's own tree, so that markers, tags, and what is there already are the
// image's. It has this machine's settings of pip, of the network the hosts of indexes and of what is
// asked for by address, and no file of the machine but pip, certificates and the requirements.
type Resolver struct {
	// Hosts are those that it may reach beside, as HOST or HOST:PORT: where the files lie
	// of an index that does not have them itself.
	Hosts []string

	pip   string   // folder of the module
	env   []string // settings
	certs string   // file; "": none
	proxy string   // by pip's settings; "": none

	constraints string // file; "": none
}

// ErrNoPip is returned (wrapped) if this machine has no pip.
var ErrNoPip = errors.New("packages are resolved by pip, and this machine has none: install python3-pip")

// NewResolver finds this machine's pip and its settings.
func NewResolver(ctx context.Context) (*Resolver, error) {
	out, err := ask(ctx, "-c", "import pip; print(pip.__path__[0])")
	dir := strings.TrimSpace(string(out))
	if err != nil || !filepath.IsAbs(dir) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, ErrNoPip
	}
	r := &Resolver{pip: dir}
	settings, err := ask(ctx, "-m", "pip", "config", "list")
	if err != nil {
		return nil, fmt.Errorf("settings of pip: %w", err)
	}
	r.configure(string(settings), os.Environ())
	return r, nil
}

// ask runs this machine's Python: in the root, as it imports what lies in its folder, which
// may be somebody else's.
func ask(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "python3", args...)
	cmd.Dir = "/"
	return cmd.Output()
}

var settingLine = lateregexp.New(`^(global|install|:env:)\.([a-z-]+)='(.*)'$`)

// configure takes over settings of pip's, those in files first.
func (r *Resolver) configure(settings string, environ []string) {
	set := make(map[string]string)
	var names []string
	put := func(name, value string) {
		if _, ok := set[name]; !ok {
			names = append(names, name)
		}
		set[name] = value
	}
	for _, section := range []string{"global", "install"} {
		for line := range strings.Lines(settings) {
			if m := settingLine().FindStringSubmatch(strings.TrimSpace(line)); m != nil && m[1] == section {
				put("PIP_"+strings.ToUpper(strings.ReplaceAll(m[2], "-", "_")), strings.ReplaceAll(m[3], `\n`, " "))
			}
		}
	}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "PIP_") {
			put(name, value)
		}
	}
	for _, name := range names {
		switch name {
		case "PIP_CERT":
			r.certs = set[name]
			continue
		case "PIP_PROXY":
			r.proxy = set[name]
			continue
		case "PIP_CONSTRAINT":
			if !strings.Contains(set[name], "://") {
				r.constraints = set[name]
				continue
			}
		case "PIP_FIND_LINKS", "PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_CONFIG_FILE", "PIP_LOG", "PIP_PYTHON", "PIP_REQUIREMENT":
			if name != "PIP_FIND_LINKS" || !strings.Contains(set[name], "://") {
				continue // of this machine's folders
			}
		}
		r.env = append(r.env, name+"="+set[name])
	}
}

// A Request is what packages are asked for: requirements (PEP 508), and files of them.
type Request struct {
	Specs []string
	Files []string
	// Whole has pip choose also what the image has already.
	Whole bool
	// Built is a folder of wheels that were built here, as the index has none, and Sources
	// what each was built of, by its name. A lock has the source in its place.
	Built   string
	Sources map[string]*lock.Wheel
}

// A MissingError says that no wheel was found that satisfies a requirement.
type MissingError struct {
	Requirement string // PEP 508
	Text        string // what pip says
}

func (e *MissingError) Error() string { return e.Text }

// run runs the script in the tree at root.
func (r *Resolver) run(ctx context.Context, root string, args []string, input []byte, binds []sandbox.Bind, network *network) ([]byte, error) {
	env := append(slices.Clone(environment), "PIP_NO_CACHE_DIR=1", "PIP_NO_INPUT=1", "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_BREAK_SYSTEM_PACKAGES=1", "PIP_ROOT_USER_ACTION=ignore")
	env = append(env, r.env...)
	binds = append(binds, sandbox.Bind{Source: r.pip, Dest: "/run/rivulet/pip"})
	if r.certs != "" {
		binds = append(binds, sandbox.Bind{Source: r.certs, Dest: "/run/rivulet/certs.pem"})
		env = append(env, "PIP_CERT=/run/rivulet/certs.pem")
	}
	var out bytes.Buffer
	err := network.run(ctx, sandbox.Spec{
		Root: root, Args: append([]string{"python3", "-B", "-c", network.script(resolveScript)}, args...), Env: env,
		Binds: binds, Stdin: bytes.NewReader(input), Stdout: &out,
		Limits: sandbox.Limits{Memory: 1 << 30, Disk: 2 << 30, Output: maxAnswerBytes},
	})
	if errors.Is(err, sandbox.ErrNoProgram) {
		return nil, ErrNone
	}
	return out.Bytes(), err
}

// An item is a distribution that pip chose.
type item struct {
	Name           string   `json:"name"`
	Version        string   `json:"version"`
	RequiresPython string   `json:"requires_python"`
	URL            string   `json:"url"`
	SHA256         string   `json:"sha256"`
	Requested      bool     `json:"requested"`
	Needs          []string `json:"needs"`
}

// Resolve returns what pip would install into the image with the tree at root, in pip's
// order. What the image has already is left out, as pip does. Only wheels are chosen. The Path of one that
// lies in a folder of this machine is absolute. Temporary files go into tempDir.
func (r *Resolver) Resolve(ctx context.Context, root string, t *Target, q Request, tempDir string) (*lock.Lock, error) {
	temp, err := scratch.Make(tempDir, "requirements")
	if err != nil {
		return nil, err
	}
	defer func() { _ = temp.Remove() }()
	c, err := newCollector(temp.Path)
	if err != nil {
		return nil, err
	}
	files, err := c.arguments(q, r.constraints)
	if err != nil {
		return nil, err
	}
	args := []string{"resolve", "--only-binary", ":all:"}
	if q.Whole {
		args = append(args, "--ignore-installed")
	}
	args = append(args, files...)
	binds := c.binds()
	if q.Built != "" {
		binds = append(binds, sandbox.Bind{Source: q.Built, Dest: builtAt})
		args = append(args, "--find-links", builtAt)
	}
	args = append(append(args, "--"), q.Specs...)
	n, err := r.network(temp.Path, r.env, append(c.texts, q.Specs...)...)
	if err != nil {
		return nil, err
	}
	out, err := r.run(ctx, root, args, nil, binds, n)
	if err = errors.Join(n.told(explained(err)), n.close()); err != nil {
		return nil, fmt.Errorf("pip: %w", err)
	}
	var items []item
	if err := json.Unmarshal(out, &items); err != nil {
		return nil, fmt.Errorf("pip's report: %w", err)
	}
	return lockOf(items, t, func(w *lock.Wheel) (source *lock.Wheel, err error) { return c.onHost(w, q.Sources) })
}

// Source returns the source distribution that pip would build for a requirement, or nil if
// there is none. Temporary files go into tempDir.
func (r *Resolver) Source(ctx context.Context, root, requirement, tempDir string) (*lock.Wheel, error) {
	temp, err := scratch.Make(tempDir, "source")
	if err != nil {
		return nil, err
	}
	defer func() { _ = temp.Remove() }()
	n, err := r.network(temp.Path, r.env)
	if err != nil {
		return nil, err
	}
	out, err := r.run(ctx, root, []string{"source", requirement}, nil, nil, n)
	if err = errors.Join(n.told(explained(err)), n.close()); err != nil {
		return nil, fmt.Errorf("pip: look for a source distribution of %s: %w", requirement, err)
	}
	var answer struct {
		URL    string `json:"url"`
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("pip: look for a source distribution of %s: %w", requirement, err)
	}
	if answer.URL == "" {
		return nil, nil
	}
	w := &lock.Wheel{URL: answer.URL, Hashes: map[string]string{"sha256": answer.SHA256}}
	w.Name = w.FileName()
	return w, nil
}

// explained prefers what pip calls the error over its last line.
func explained(err error) error {
	var e *sandbox.Error
	if !errors.As(err, &e) {
		return err
	}
	first := ""
	for line := range strings.Lines(e.Output) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "ERROR: ")
		if !ok {
			continue
		}
		if first == "" {
			first = text
		}
		if rest, ok := strings.CutPrefix(text, "No matching distribution found for "); ok {
			requirement, _, _ := strings.Cut(rest, " (from ")
			return &MissingError{Requirement: requirement, Text: first}
		}
	}
	if first != "" {
		return errors.New(first)
	}
	return err
}

func lockOf(items []item, t *Target, onHost func(*lock.Wheel) (source *lock.Wheel, err error)) (*lock.Lock, error) {
	major, minor := t.minor()
	l := &lock.Lock{Version: "1.0", CreatedBy: "rivulet", RequiresPython: fmt.Sprintf("==%d.%d.*", major, minor)}
	l.Tool.Rivulet.Target = t.String()
	for _, i := range items {
		w := lock.Wheel{URL: i.URL, Hashes: map[string]string{"sha256": i.SHA256}}
		if w.Name = w.FileName(); !strings.HasSuffix(w.Name, ".whl") {
			return nil, fmt.Errorf("%s is no wheel: only wheels are installed", i.URL)
		}
		source, err := onHost(&w)
		if err != nil {
			return nil, fmt.Errorf("pip's report: %w", err)
		}
		p := lock.Package{Name: i.Name, Version: i.Version, RequiresPython: i.RequiresPython, Sdist: source}
		if source == nil {
			p.Wheels = []lock.Wheel{w}
		}
		for _, n := range i.Needs {
			p.Dependencies = append(p.Dependencies, lock.Dependency{Name: n})
		}
		if i.Requested {
			l.Tool.Rivulet.Requested = append(l.Tool.Rivulet.Requested, i.Name)
		}
		l.Packages = append(l.Packages, p)
	}
	data, err := l.Encode() // what pip reported is checked like any lock
	if err == nil {
		l, err = lock.Parse(data)
	}
	if err != nil {
		return nil, fmt.Errorf("pip's report: %w", err)
	}
	return l, nil
}

// Choose returns a lock that has of each package of l that the target needs the one wheel
// that pip would take. It runs pip's code only if l leaves a choice.
func (r *Resolver) Choose(ctx context.Context, root string, l *lock.Lock) (*lock.Lock, error) {
	type question struct {
		Marker         string   `json:"marker"`
		RequiresPython string   `json:"requires_python"`
		Wheels         []string `json:"wheels"`
	}
	var all []question
	for _, p := range l.Packages {
		q := question{p.Marker, p.RequiresPython, []string{}}
		for i := range p.Wheels {
			q.Wheels = append(q.Wheels, p.Wheels[i].FileName())
		}
		all = append(all, q)
	}
	input, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	out, err := r.run(ctx, root, []string{"choose"}, input, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("choose of the lock's wheels: %w", err)
	}
	var answers []int
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(all) {
		return nil, errors.New("choose of the lock's wheels: the answer is not understood")
	}
	chosen := *l
	chosen.Packages = nil
	for i, n := range answers {
		p := l.Packages[i]
		switch {
		case n == -2: // its marker leaves it out
			continue
		case n == -3:
			return nil, fmt.Errorf("package %s needs Python %s", p.Name, p.RequiresPython)
		case n == -1 && p.Sdist != nil:
			p.Wheels = nil
			chosen.Packages = append(chosen.Packages, p)
			continue
		case n < 0 || n >= len(p.Wheels):
			return nil, fmt.Errorf("package %s: none of the lock's %d wheels is for this image", p.Name, len(p.Wheels))
		}
		p.Wheels = []lock.Wheel{p.Wheels[n]}
		chosen.Packages = append(chosen.Packages, p)
	}
	return &chosen, nil
}

// Decided reports whether a lock leaves no choice for the target: one wheel a package that
// fits, and no markers.
func Decided(l *lock.Lock, t *Target) bool {
	for _, p := range l.Packages {
		if p.Sdist != nil && len(p.Wheels) == 0 && p.Marker == "" && l.Tool.Rivulet.Target == t.String() {
			continue
		}
		if len(p.Wheels) != 1 || p.Marker != "" || p.RequiresPython != "" && l.Tool.Rivulet.Target != t.String() || !t.Takes(p.Wheels[0].FileName()) {
			return false
		}
	}
	return true
}

// Takes reports whether the target runs a wheel with that name of a file.
func (t *Target) Takes(file string) bool {
	tags, err := wheel.TagsOf(file)
	return err == nil && slices.ContainsFunc(tags, t.Supports)
}

// Login returns what pip's settings log in to a host with: what stands in an index's
// address. It is nil if there is nothing.
func (r *Resolver) Login(host string) *url.Userinfo {
	return loginOf(r.env, host, "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
}

// loginOf returns the login for a host in the addresses that variables of these names have.
func loginOf(env []string, host string, names ...string) *url.Userinfo {
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if !slices.Contains(names, name) {
			continue
		}
		for address := range strings.FieldsSeq(value) {
			if before, rest, ok := strings.Cut(address, "="); ok && !strings.ContainsAny(before, ":/") {
				address = rest // uv has names for indexes
			}
			if u, err := url.Parse(address); err == nil && u.Host == host && u.User != nil {
				return u.User
			}
		}
	}
	return nil
}
