package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/flatten/zipfile"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/python"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

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
