package packages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/rivuletfs/rivulet/flatten/zipfile"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/python"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

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
