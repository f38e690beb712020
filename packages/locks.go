package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/rivuletfs/rivulet/flatten/zipfile"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/python"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

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
