// Package packages makes layers of packages: Python's, of wheels, source distributions,
// requirements that pip resolves and locks, by [Python]; and npm's, by [Node]. Both are
// extensions of flatten/source.
//
// Each distribution is installed alone, and is a layer of its own. That layer is a pure
// function of the wheel, of the interpreter and where it has its packages, and of nothing
// else: so it is made once, kept in a [Cache], and stored once in an origin, whatever
// images it is in. What was resolved goes into the image's configuration, as a
// pylock.toml: publishing from that gives the same disk.
//
//	pip:SPEC, requirements:FILE ─► pip, in a sandbox ─► lock ─┐
//	pylock:FILE ──────────────────────────────────────► lock ─┴► wheels ─► checked, installed, compiled ─► layers
//	sdist:FILE ─► built, in a sandbox without a network ─┐                     ▲
//	wheel:FILE ─────────────────────────────────────────────────┘          once for all processes of a host
package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/flatten/zipfile"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/python"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

// Label is the label of an image's configuration that has the lock of its packages.
const Label = "com.github.rivuletfs.pylock"

// Schemes are those of the sources that a Python opens.
var Schemes = []string{"pip", "requirements", "pylock", "wheel", "sdist"}

// layoutVersion changes with whatever changes the bytes that an installation makes.
const layoutVersion = "rivulet python installation 1"

// A Python opens sources of Python packages; see [source.Extension]. Calls of Open may
// run at once.
type Python struct {
	Cache   *Cache
	TempDir string
	// Apart has each distribution land in /packages/NAME==VERSION instead of
	// site-packages, with a path file that leads there.
	Apart bool
	// Resolver is what chooses packages, one of Resolvers; "" is the first.
	Resolver string
	// Hosts are further ones, as HOST or HOST:PORT, that resolving may reach beside those of indexes.
	Hosts []string
	// Tell, if set, is told what a user should know of a publication that succeeds.
	Tell func(line string)
}

var _ source.Extension = (*Python)(nil)

// Open implements source.Extension.
func (p *Python) Open(ctx context.Context, srcs []string, below []*source.Layer) (_ *source.Image, err error) {
	b, err := p.Cache.base(ctx, below, p.TempDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	o := opening{Python: p, base: b, local: make(map[string]string), wheels: make(map[string]string)}
	defer func() { _ = o.close() }()
	all, err := o.locks(ctx, srcs)
	if err != nil {
		return nil, err
	}
	whole := all[0]
	for _, l := range all[1:] {
		whole.Packages = append(whole.Packages, l.Packages...)
		whole.Tool.Rivulet.Requested = append(whole.Tool.Rivulet.Requested, l.Tool.Rivulet.Requested...)
	}
	if err := checkTwice(whole); err != nil {
		return nil, err
	}
	made, err := o.install(ctx, whole)
	if err != nil {
		return nil, err
	}
	if err := o.measure(ctx, made); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		o.tell("what imports of the packages read is not known: %v", err) // it is advice
	}
	tellCollisions(made, p.Tell)
	img, err := p.Cache.image(made)
	if err != nil {
		return nil, err
	}
	text, err := whole.Encode()
	if err != nil {
		return nil, err
	}
	img.Labels = map[string]string{Label: string(text)}
	img.OnClose(b.close)
	return img, nil
}

// An opening is one call of Open.
type opening struct {
	*Python
	base   *base
	local  map[string]string // digest of a file of this machine to where it is
	built  *scratch.Folder   // wheels that were built while packages were resolved; nil: none was
	wheels map[string]string // digest of a source to the wheel there

	mu      sync.Mutex // guards what follows
	usedPip *python.Resolver
	logins  []func(host string) *url.Userinfo // for indexes
}

// locks returns a lock for each source; one for all that pip resolves, in the place of
// the first of them.
func (o *opening) locks(ctx context.Context, srcs []string) ([]*lock.Lock, error) {
	var q python.Request
	for _, src := range srcs {
		switch scheme, rest, _ := strings.Cut(src, ":"); {
		case rest == "":
			return nil, fmt.Errorf("%q: nothing is named", src)
		case scheme == "pip":
			q.Specs = append(q.Specs, rest)
		case scheme == "requirements":
			q.Files = append(q.Files, rest)
		}
	}
	var all []*lock.Lock
	resolved := false
	for _, src := range srcs {
		var l *lock.Lock
		var err error
		switch scheme, rest, _ := strings.Cut(src, ":"); scheme {
		case "wheel":
			l, err = o.lockOfWheel(rest)
		case "sdist":
			l, err = o.lockOfSource(rest)
		case "pylock":
			l, err = o.readLock(ctx, rest)
		default:
			if resolved {
				continue
			}
			resolved = true
			l, err = o.resolve(ctx, q)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// readLock reads a lock of a file and decides what it leaves open.
func (o *opening) readLock(ctx context.Context, file string) (*lock.Lock, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, lock.MaxBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	l, err := lock.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for i := range l.Packages {
		files := []*lock.Wheel{}
		for k := range l.Packages[i].Wheels {
			files = append(files, &l.Packages[i].Wheels[k])
		}
		if s := l.Packages[i].Sdist; s != nil {
			files = append(files, s)
		}
		for _, w := range files {
			if w.Path == "" {
				continue
			}
			path := w.Path
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(file), path)
			}
			if err := o.here(w, path); err != nil {
				return nil, err
			}
		}
	}
	if python.Decided(l, o.base.target) {
		return l, nil
	}
	r, err := o.pip(ctx)
	if err != nil {
		return nil, err
	}
	root, err := o.base.root(ctx)
	if err != nil {
		return nil, err
	}
	if l, err = r.Choose(ctx, root, l); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	l.Tool.Rivulet.Target = o.base.target.String()
	return l, nil
}

// here notes where a file of this machine is. Locks have no more than its name: what an
// image says of itself must not depend on whose folder it was published from.
func (o *opening) here(w *lock.Wheel, path string) error {
	path, err := filepath.Abs(path)
	if err == nil {
		o.local[w.SHA256()] = path
	}
	return err
}

// lockedFile returns a file of this machine as a lock has it.
func (o *opening) lockedFile(file string) (*lock.Wheel, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	name := filepath.Base(file)
	w := &lock.Wheel{Name: name, Path: name, Size: size, Hashes: map[string]string{"sha256": hex.EncodeToString(sum.Sum(nil))}}
	return w, o.here(w, file)
}

// lockOfWheel returns a lock of one file.
func (o *opening) lockOfWheel(file string) (*lock.Lock, error) {
	locked, err := o.lockedFile(file)
	if err != nil {
		return nil, err
	}
	w, err := wheel.Open(file, zipfile.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	l := &lock.Lock{Version: "1.0", CreatedBy: "rivulet", Packages: []lock.Package{{
		Name: w.Name, Version: w.Version, RequiresPython: w.RequiresPython, Wheels: []lock.Wheel{*locked},
	}}}
	l.Tool.Rivulet.Requested = []string{w.Name}
	return l, w.Close()
}

// lockOfSource returns a lock of one source distribution.
func (o *opening) lockOfSource(file string) (*lock.Lock, error) {
	name, version, err := python.SourceName(filepath.Base(file))
	if err != nil {
		return nil, err
	}
	locked, err := o.lockedFile(file)
	if err != nil {
		return nil, err
	}
	l := &lock.Lock{Version: "1.0", CreatedBy: "rivulet", Packages: []lock.Package{{Name: name, Version: version, Sdist: locked}}}
	l.Tool.Rivulet = lock.Origin{Requested: []string{name}, Target: o.base.target.String()}
	return l, nil
}

func checkTwice(l *lock.Lock) error {
	seen := make(map[string]string)
	for _, p := range l.Packages {
		name := wheel.Normalize(p.Name)
		if other, ok := seen[name]; ok {
			return fmt.Errorf("package %s is asked for twice, as %s and %s: name one", name, other, p.Version)
		}
		seen[name] = p.Version
	}
	return nil
}

// install returns the installation of each package of a lock, in its order.
func (o *opening) install(ctx context.Context, l *lock.Lock) ([]*Installed, error) {
	made := make([]*Installed, len(l.Packages))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)/2))
	for i := range l.Packages {
		g.Go(func() (err error) {
			p := &l.Packages[i]
			if made[i], err = o.installOne(ctx, p); err != nil {
				return fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
			}
			return nil
		})
	}
	return made, g.Wait()
}

func (o *opening) installOne(ctx context.Context, p *lock.Package) (*Installed, error) {
	t := o.base.target
	layout := t.Layout(p.Name, p.Version, o.Apart)
	from, build := p.Sdist, ""
	switch {
	case len(p.Wheels) == 1:
		from = &p.Wheels[0]
		if !t.Takes(from.FileName()) {
			return nil, fmt.Errorf("%s is not for the Python of the image below, %s", from.FileName(), t)
		}
	case len(p.Wheels) > 1 || p.Sdist == nil:
		return nil, fmt.Errorf("the lock has %d wheels of it, not one", len(p.Wheels))
	default:
		build = o.base.name // what is built depends on the image it is built on
	}
	key, err := keyOf(from.SHA256(), from.FileName(), build, t, layout)
	if err != nil {
		return nil, err
	}
	return o.Cache.install(ctx, key, p.Name+" "+p.Version, func(ctx context.Context, out io.Writer) (*Installed, error) {
		file, err := o.fetch(ctx, from)
		if err != nil {
			return nil, err
		}
		root, err := o.base.root(ctx)
		if err != nil {
			return nil, err
		}
		if ready := o.wheelOf(from); build != "" && ready != "" {
			file = ready
		} else if build != "" {
			built, remove, err := o.build(ctx, root, file)
			if err != nil {
				return nil, err
			}
			defer remove()
			file = built
		}
		if build != "" && !t.Takes(filepath.Base(file)) {
			return nil, fmt.Errorf("the build gave %s, which is not for the Python of the image below, %s", filepath.Base(file), t)
		}
		opened, err := wheel.Open(file, zipfile.Limits{})
		if err != nil {
			return nil, err
		}
		defer func() { _ = opened.Close() }()
		if wheel.Normalize(opened.Name) != wheel.Normalize(p.Name) || p.Version != "" && opened.Version != p.Version {
			return nil, fmt.Errorf("the wheel is %s %s", opened.Name, opened.Version)
		}
		plan, err := opened.Plan(layout)
		if err != nil {
			return nil, err
		}
		if err := python.Compile(ctx, root, t, plan); err != nil {
			return nil, err
		}
		if err := plan.WriteArchive(ctx, out); err != nil {
			return nil, err
		}
		return &Installed{
			Name: opened.Name, Version: opened.Version, Wheel: filepath.Base(file), SHA256: from.SHA256(), Target: t.String(), Paths: plan.Contents(),
		}, nil
	})
}

// build builds a source distribution. remove removes the wheel.
func (o *opening) build(ctx context.Context, root, file string) (built string, remove func(), err error) {
	s, err := python.OpenSource(file)
	if err != nil {
		return "", nil, err
	}
	temp, err := scratch.Make(o.TempDir, "build")
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			_ = temp.Remove()
		}
	}()
	dir := temp.Path
	env := filepath.Join(dir, "env")
	if err := os.Mkdir(env, 0o755); err != nil {
		return "", nil, err
	}
	if err := o.provide(ctx, root, s.Requires, env); err != nil {
		return "", nil, err
	}
	more, err := s.MoreRequires(ctx, root, env)
	if err != nil {
		return "", nil, err
	}
	if len(more) > 0 {
		env = filepath.Join(dir, "env2")
		if err := os.Mkdir(env, 0o755); err != nil {
			return "", nil, err
		}
		if err := o.provide(ctx, root, append(slices.Clone(s.Requires), more...), env); err != nil {
			return "", nil, err
		}
	}
	if built, err = s.Build(ctx, root, env, dir); err != nil {
		return "", nil, fmt.Errorf("build: %w", err)
	}
	return built, func() { _ = temp.Remove() }, nil
}

// provide installs what a build requires, wheels alone, into the folder env.
func (o *opening) provide(ctx context.Context, root string, requires []string, env string) error {
	if len(requires) == 0 {
		return nil
	}
	r, err := o.pip(ctx)
	if err != nil {
		return err
	}
	l, err := r.Resolve(ctx, root, o.base.target, python.Request{Specs: requires, Whole: true}, o.TempDir)
	if err != nil {
		return fmt.Errorf("what the build requires: %w", err)
	}
	to, err := os.OpenRoot(env)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	layout := wheel.Layout{Purelib: "site", Platlib: "site", Headers: "include", Scripts: "bin", Data: "data", Interpreter: o.base.target.Executable, Installer: "rivulet"}
	for i := range l.Packages {
		p := &l.Packages[i]
		file, err := o.fetch(ctx, &p.Wheels[0])
		if err != nil {
			return err
		}
		w, err := wheel.Open(file, zipfile.Limits{})
		if err != nil {
			return err
		}
		plan, err := w.Plan(layout)
		if err == nil {
			err = plan.WriteFiles(to)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			return fmt.Errorf("what the build requires, %s: %w", p.Name, err)
		}
	}
	return filepath.WalkDir(env, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755) // whatever the umask: the sandbox is another user
		}
		return err
	})
}

// keyOf returns what an installation is found by: the digest of all that its bytes
// depend on. A copy of a wheel under another name is another one, as its tags are. base is
// the image that a source distribution is built on, and empty for a wheel.
func keyOf(sum, file, base string, t *python.Target, l wheel.Layout) (string, error) {
	of, err := json.Marshal(struct {
		Version, SHA256, File, Base, Build, CacheTag string
		Layout                                       wheel.Layout
	}{layoutVersion, sum, file, base, t.Build, t.CacheTag, l})
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(of)
	return hex.EncodeToString(key[:]), nil
}

// fetch returns the file of a wheel that is what its digest says.
func (o *opening) fetch(ctx context.Context, w *lock.Wheel) (string, error) {
	from := w.URL
	if path := o.local[w.SHA256()]; path != "" {
		from = (&url.URL{Scheme: "file", Path: path}).String()
	}
	var login func(host string) *url.Userinfo
	o.mu.Lock()
	if logins := slices.Clone(o.logins); len(logins) > 0 {
		login = func(host string) *url.Userinfo {
			for _, l := range logins {
				if u := l(host); u != nil {
					return u
				}
			}
			return nil
		}
	}
	o.mu.Unlock()
	return o.Cache.fetch(ctx, from, w.FileName(), w.SHA256(), login)
}

// tellCollisions tells which packages have a path in common. The later one's file is the one
// there is, as it is with pip.
func tellCollisions(made []*Installed, tell func(line string)) {
	if tell == nil {
		return
	}
	type owner struct {
		in  *Installed
		sum string
	}
	owners := make(map[string]owner)
	type pair struct{ first, second *Installed }
	var order []pair
	paths := make(map[pair][]string)
	for _, in := range made {
		for path, sum := range in.Paths {
			if strings.HasSuffix(path, ".pyc") {
				continue // it goes with its source
			}
			if before, ok := owners[path]; ok && before.sum != sum {
				k := pair{before.in, in}
				if paths[k] == nil {
					order = append(order, k)
				}
				paths[k] = append(paths[k], path)
			}
			owners[path] = owner{in, sum}
		}
	}
	for _, k := range order {
		list := paths[k]
		slices.Sort(list)
		more := ""
		if len(list) > 1 {
			more = fmt.Sprintf(" and %d files more", len(list)-1)
		}
		tell(fmt.Sprintf("packages %s and %s both have /%s%s: %s's is used, as the last one installed", k.first.Name, k.second.Name, list[0], more, k.second.Name))
	}
}
