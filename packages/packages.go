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
	"errors"
	"net/url"
	"sync"

	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/python"
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
