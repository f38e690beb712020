package packages

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/python"
)

// A resolver chooses packages for an image, as python.Resolver does by pip.
type resolver interface {
	Resolve(ctx context.Context, root string, t *python.Target, q python.Request, tempDir string) (*lock.Lock, error)
	Login(host string) *url.Userinfo
}

// Resolvers are the names of what can choose Python packages, the default first.
var Resolvers = []string{"pip", "uv"}

// pip returns this machine's pip, which chooses of locks, and what builds require, whatever
// resolves.
func (o *opening) pip(ctx context.Context) (*python.Resolver, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.usedPip == nil {
		r, err := python.NewResolver(ctx)
		if err != nil {
			return nil, err
		}
		r.Hosts = o.Hosts
		o.usedPip, o.logins = r, append(o.logins, r.Login)
	}
	return o.usedPip, nil
}

// chosen returns what the user has resolve.
func (o *opening) chosen(ctx context.Context) (resolver, error) {
	if o.Resolver != "uv" {
		return o.pip(ctx)
	}
	u, err := python.NewUV(ctx)
	if err != nil {
		return nil, err
	}
	u.Hosts = o.Hosts
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logins = append(o.logins, u.Login)
	return u, nil
}

// maxSources bounds the packages that are built while one set is resolved.
const maxSources = 32

// resolve has the chosen program resolve. A package that the index has no wheel of for the
// image is built, in a sandbox without a network, and what it says it needs counts.
func (o *opening) resolve(ctx context.Context, q python.Request) (*lock.Lock, error) {
	root, err := o.base.root(ctx)
	if err != nil {
		return nil, err
	}
	r, err := o.chosen(ctx)
	if err != nil {
		return nil, err
	}
	l, err := r.Resolve(ctx, root, o.base.target, q, o.TempDir)
	var missing *python.MissingError
	if !errors.As(err, &missing) {
		return o.withFiles(l, err)
	}
	pip, ok := r.(*python.Resolver)
	if !ok { // uv does not say which version it would have had built
		o.tell("uv finds no wheel of %s: pip chooses, and what has none is built", missing.Requirement)
		if pip, err = o.pip(ctx); err != nil {
			return nil, err
		}
		r = pip
		if l, err = r.Resolve(ctx, root, o.base.target, q, o.TempDir); !errors.As(err, &missing) {
			return o.withFiles(l, err)
		}
	}
	if o.built, err = scratch.Make(o.TempDir, "built"); err != nil {
		return nil, err
	}
	// The sandbox is another user, and is given this folder; nobody else sees it.
	q.Built, q.Sources = filepath.Join(o.built.Path, "wheels"), make(map[string]*lock.Wheel)
	if err := errors.Join(os.Mkdir(q.Built, 0o755), os.Chmod(q.Built, 0o755)); err != nil {
		return nil, err
	}
	tried := make(map[string]bool)
	for range maxSources {
		if tried[missing.Requirement] {
			return nil, fmt.Errorf("pip: %w", missing)
		}
		tried[missing.Requirement] = true
		if err := o.buildMissing(ctx, pip, root, missing, &q); err != nil {
			return nil, err
		}
		l, err = r.Resolve(ctx, root, o.base.target, q, o.TempDir)
		if !errors.As(err, &missing) {
			return o.withFiles(l, err)
		}
	}
	return nil, fmt.Errorf("more than %d packages have no wheel for this image", maxSources)
}

// buildMissing builds the source distribution of a requirement that no wheel satisfies.
func (o *opening) buildMissing(ctx context.Context, r *python.Resolver, root string, missing *python.MissingError, q *python.Request) error {
	source, err := r.Source(ctx, root, missing.Requirement, o.TempDir)
	if err != nil {
		return err
	}
	if source == nil {
		return fmt.Errorf("pip: %w", missing)
	}
	name := source.FileName()
	if source.SHA256() == "" {
		return fmt.Errorf("%s: the index does not say its SHA-256", name)
	}
	if _, _, err := python.SourceName(name); err != nil {
		return fmt.Errorf("pip: %w; and there is %s, which cannot be built: %w", missing, name, err)
	}
	o.tell("%s is built: the index has no wheel for this image", name)
	file, err := o.fetch(ctx, source)
	if err != nil {
		return err
	}
	wheel, remove, err := o.build(ctx, root, file)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer remove()
	to := filepath.Join(q.Built, filepath.Base(wheel))
	if err := errors.Join(os.Rename(wheel, to), os.Chmod(to, 0o644)); err != nil {
		return err
	}
	q.Sources[filepath.Base(wheel)] = source
	o.wheels[source.SHA256()] = to
	return nil
}

// wheelOf returns the wheel that was built of a source while packages were resolved; "" if
// none was, or it is gone, as it is once that is over.
func (o *opening) wheelOf(source *lock.Wheel) string {
	file := o.wheels[source.SHA256()]
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// close removes what was built.
func (o *opening) close() error {
	if o.built == nil {
		return nil
	}
	return o.built.Remove()
}

func (o *opening) tell(format string, args ...any) {
	if o.Tell != nil {
		o.Tell(fmt.Sprintf(format, args...))
	}
}

// withFiles notes where files of this machine are that a lock has by their paths.
func (o *opening) withFiles(l *lock.Lock, err error) (*lock.Lock, error) {
	if err != nil {
		return nil, err
	}
	for i := range l.Packages {
		for k := range l.Packages[i].Wheels {
			w := &l.Packages[i].Wheels[k]
			if w.Path == "" {
				continue
			}
			if err := o.here(w, w.Path); err != nil {
				return nil, err
			}
			w.Path = filepath.Base(w.Path)
		}
	}
	return l, nil
}
