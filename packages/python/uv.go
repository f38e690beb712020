package python

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

//go:embed uv.py
var uvScript string

// A UV has this machine's uv resolve for images, as a Resolver has pip, which it is
// given pip's settings of; uv's own variables go before them. Of the wheels that uv leaves to choose
// from, pip's code takes one, as it does of any lock.
type UV struct {
	*Resolver
	program string // file
	env     []string
}

// ErrNoUV is returned (wrapped) if this machine has no uv.
var ErrNoUV = errors.New("packages are to be resolved by uv, and this machine has none: install uv, or take pip")

// NewUV finds this machine's uv and its settings.
func NewUV(ctx context.Context) (*UV, error) {
	found, err := exec.LookPath("uv")
	if err == nil {
		found, err = filepath.EvalSymlinks(found)
	}
	if err != nil {
		return nil, ErrNoUV
	}
	pip, err := NewResolver(ctx)
	if err != nil {
		return nil, err
	}
	u := &UV{Resolver: pip, program: found}
	// Version managers put a script in its place: uv itself tells where it is.
	if script, err := isScript(found); err != nil || !script {
		u.configure(os.Environ())
		return u, err
	}
	cmd := exec.CommandContext(ctx, found, "run", "--no-project", "--offline", "python3", "-c", `import os; print(os.environ.get("UV", ""))`)
	cmd.Dir = "/" // it would run the Python of an environment in its folder, which may be somebody else's
	if out, err := cmd.Output(); err == nil {
		if at := strings.TrimSpace(string(out)); filepath.IsAbs(at) {
			u.program = at
		}
	}
	u.configure(os.Environ())
	return u, nil
}

// isScript reports whether a program is one that another one interprets.
func isScript(file string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	var head [2]byte
	_, err = io.ReadFull(f, head[:])
	return string(head[:]) == "#!", err
}

// asUV is what uv calls settings of pip's.
var asUV = map[string]string{
	"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX", "PIP_FIND_LINKS": "UV_FIND_LINKS",
	"PIP_DEFAULT_TIMEOUT": "UV_HTTP_TIMEOUT", "PIP_TRUSTED_HOST": "UV_INSECURE_HOST", "PIP_PRE": "UV_PRERELEASE",
}

// configure takes over settings: of pip's, and uv's variables of indexes.
func (u *UV) configure(environ []string) {
	for _, v := range u.Resolver.env {
		name, value, _ := strings.Cut(v, "=")
		if to := asUV[name]; to == "UV_PRERELEASE" {
			u.env = append(u.env, to+"=allow")
		} else if to != "" {
			u.env = append(u.env, to+"="+value)
		}
	}
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if slices.Contains([]string{"UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_STRATEGY", "UV_HTTP_TIMEOUT", "UV_INSECURE_HOST", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER"}, name) {
			u.env = append(u.env, v)
		}
	}
}

// Login is [Resolver.Login] by what uv is given.
func (u *UV) Login(host string) *url.Userinfo {
	return loginOf(u.env, host, "UV_DEFAULT_INDEX", "UV_INDEX")
}

// Resolve is [Resolver.Resolve] by uv.
func (u *UV) Resolve(ctx context.Context, root string, t *Target, q Request, tempDir string) (*lock.Lock, error) {
	if q.Built != "" {
		return nil, errors.New("uv: what was built is not among its choices")
	}
	temp, err := scratch.Make(tempDir, "requirements")
	if err != nil {
		return nil, err
	}
	defer func() { _ = temp.Remove() }()
	c, err := newCollector(temp.Path)
	if err != nil {
		return nil, err
	}
	args, err := c.arguments(q, u.constraints)
	if err != nil {
		return nil, err
	}
	if len(q.Specs) > 0 {
		file, err := c.specs(q.Specs)
		if err != nil {
			return nil, err
		}
		args = append(args, "-r", file)
	}
	n, err := u.network(temp.Path, u.env, append(c.texts, q.Specs...)...)
	if err != nil {
		return nil, err
	}
	out, err := u.run(ctx, root, args, c.binds(), q.Whole, n)
	if err = errors.Join(n.told(err), n.close()); err != nil {
		return nil, fmt.Errorf("uv: %w", err)
	}
	l, err := lock.Parse([]byte(out.Lock))
	if err != nil {
		return nil, fmt.Errorf("uv: %w", err)
	}
	if err := u.arrange(l, out, q); err != nil {
		return nil, fmt.Errorf("uv: %w", err)
	}
	for i := range l.Packages {
		p := &l.Packages[i]
		p.Sdist = nil
		for k := range p.Wheels {
			if _, err := c.onHost(&p.Wheels[k], nil); err != nil {
				return nil, fmt.Errorf("uv: %w", err)
			}
		}
	}
	chosen, err := u.Choose(ctx, root, l)
	if err != nil {
		return nil, err
	}
	major, minor := t.minor()
	chosen.CreatedBy, chosen.RequiresPython = "rivulet", fmt.Sprintf("==%d.%d.*", major, minor)
	chosen.Tool.Rivulet.Target = t.String()
	return chosen, nil
}

// uvMemory bounds uv's memory, in bytes.
const uvMemory = 1 << 30

// uvAnswer is what uv said.
type uvAnswer struct {
	Missing []string `json:"missing"` // what would be installed, as NAME==VERSION
	Lock    string   `json:"lock"`    // a pylock.toml
	Via     string   `json:"via"`     // requirements, each with a comment that says what needs it
}

func (u *UV) run(ctx context.Context, root string, args []string, binds []sandbox.Bind, whole bool, network *network) (*uvAnswer, error) {
	env := append(slices.Clone(environment), "UV_NO_CONFIG=1", "UV_CACHE_DIR=/tmp/uv", "UV_PYTHON_DOWNLOADS=never", "UV_NO_PROGRESS=1")
	env = append(env, u.env...)
	binds = append(binds, sandbox.Bind{Source: u.program, Dest: "/run/rivulet/uv"})
	if u.certs != "" {
		binds = append(binds, sandbox.Bind{Source: u.certs, Dest: "/run/rivulet/certs.pem"})
		env = append(env, "SSL_CERT_FILE=/run/rivulet/certs.pem")
	}
	which := "missing"
	if whole {
		which = "whole"
	}
	var out bytes.Buffer
	err := network.run(ctx, sandbox.Spec{
		Root: root, Args: append([]string{"python3", "-I", "-B", "-c", network.script(uvScript), which}, args...), Env: env,
		Binds: binds, Stdout: &out,
		Limits: sandbox.Limits{Memory: uvMemory, Disk: 2 << 30, Output: maxAnswerBytes},
	})
	if errors.Is(err, sandbox.ErrNoProgram) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, explainedByUV(err)
	}
	var answer uvAnswer
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return nil, fmt.Errorf("its answer: %w", err)
	}
	return &answer, nil
}

// explainedByUV makes one line of what uv says: it draws its reasons as a tree.
func explainedByUV(err error) error {
	var e *sandbox.Error
	if !errors.As(err, &e) {
		return err
	}
	if i := strings.Index(e.Output, "memory allocation of "); i >= 0 { // as Rust's programs end without memory
		line, _, _ := strings.Cut(e.Output[i:], "\n")
		return fmt.Errorf("looks through more versions than %d MiB have room for: bound them, as in 'boto3>=1.40', name first what has most of them, or use pip: %w",
			uvMemory>>20, &sandbox.Error{Reason: e.Reason, Output: line})
	}
	var words []string
	for line := range strings.Lines(e.Output) {
		line = strings.Trim(line, " \t\r\n×╰│─▶")
		if rest, hint := strings.CutPrefix(line, "hint: "); hint {
			line = "(" + rest + ")"
		}
		if line != "" && !strings.HasPrefix(line, "Using Python") {
			words = append(words, line)
		}
	}
	if len(words) == 0 {
		return err
	}
	text := strings.TrimPrefix(strings.Join(words, " "), "error: ")
	if m := wheelsRequired().FindStringSubmatch(text); m != nil {
		return &MissingError{Requirement: m[1], Text: text}
	}
	return errors.New(text)
}

// wheelsRequired is how uv says that a package would have to be built.
var wheelsRequired = lateregexp.New("Wheels are required for `([A-Za-z0-9._-]+)` because building from source is disabled")

var viaLine = lateregexp.New(`^([A-Za-z0-9._-]+)==\S+\s+# via (.*)$`)

// arrange leaves of a lock what would be installed, says of each package what it needs
// and which were asked for, and puts what is needed before what needs it, as pip does.
func (u *UV) arrange(l *lock.Lock, out *uvAnswer, q Request) error {
	missing := make(map[string]bool)
	for _, m := range out.Missing {
		name, _, _ := strings.Cut(m, "==")
		missing[wheel.Normalize(name)] = true
	}
	needs := make(map[string][]string)
	var requested []string
	for line := range strings.Lines(out.Via) {
		m := viaLine().FindStringSubmatch(strings.TrimSpace(line))
		if m == nil || !missing[wheel.Normalize(m[1])] && !q.Whole {
			continue
		}
		for by := range strings.SplitSeq(m[2], ", ") {
			if strings.HasPrefix(by, "-r ") {
				if !slices.Contains(requested, m[1]) {
					requested = append(requested, m[1])
				}
			} else if !strings.HasPrefix(by, "-c ") {
				needs[wheel.Normalize(by)] = append(needs[wheel.Normalize(by)], m[1])
			}
		}
	}
	byName := make(map[string]*lock.Package)
	var names []string
	for i := range l.Packages {
		p := &l.Packages[i]
		name := wheel.Normalize(p.Name)
		if !q.Whole && !missing[name] {
			continue
		}
		if len(p.Wheels) == 0 {
			return &MissingError{Requirement: p.Name + "==" + p.Version, Text: fmt.Sprintf("the index has no wheel of %s %s for this image", p.Name, p.Version)}
		}
		byName[name] = p
		names = append(names, name)
	}
	slices.Sort(names)
	var ordered []lock.Package
	done := make(map[string]bool)
	var visit func(name string)
	visit = func(name string) {
		p := byName[name]
		if p == nil || done[name] {
			return
		}
		done[name] = true
		slices.Sort(needs[name])
		for _, n := range needs[name] {
			visit(wheel.Normalize(n))
			p.Dependencies = append(p.Dependencies, lock.Dependency{Name: n})
		}
		ordered = append(ordered, *p)
	}
	for _, n := range names {
		visit(n)
	}
	l.Packages = ordered
	l.Tool.Rivulet.Requested = requested
	return nil
}
