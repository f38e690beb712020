package packages

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/python"
)

// maxMeasured bounds the files that packages are unpacked to, to be imported, in bytes.
// Of more, imports are not measured: that is advice alone.
const maxMeasured = 8 << 30

// measure finds out what importing the packages reads, for those of which nobody has yet:
// with all of the others there, as a package imports what it needs. One whose import
// failed is tried again beside other packages.
func (o *opening) measure(ctx context.Context, made []*Installed) error {
	with := sha256.New()
	var total int64
	for _, in := range made {
		if in.make != nil {
			return nil // its files are not here, and not worth being fetched
		}
		total += in.Size
		fmt.Fprintln(with, in.Key)
	}
	set := hex.EncodeToString(with.Sum(nil))
	var todo []*Installed
	for _, in := range made {
		if in.Import == nil || in.Import.Error != "" && in.Import.With != set {
			todo = append(todo, in)
		}
	}
	if len(todo) == 0 || total > maxMeasured {
		return nil
	}
	root, err := o.base.root(ctx)
	if err != nil {
		return err
	}
	temp, err := scratch.Make(o.TempDir, "import")
	if err != nil {
		return err
	}
	defer func() { _ = temp.Remove() }()
	dir := filepath.Join(temp.Path, "files") // in a folder that nobody else looks into
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := o.unpack(ctx, dir, made); err != nil {
		return fmt.Errorf("unpack packages, to import them: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, runtime.GOMAXPROCS(0)/2))
	sites := o.sites(made)
	for _, in := range todo {
		g.Go(func() error {
			i := &python.Import{}
			if modules := python.ModulesOf(pathsOf(in), sites...); len(modules) > 0 {
				var err error
				if i, err = python.MeasureImport(gctx, root, dir, sites, modules); err != nil {
					return fmt.Errorf("package %s %s: %w", in.Name, in.Version, err)
				}
			}
			i.With = set
			i.Reads = slices.DeleteFunc(i.Reads, func(r python.Read) bool { _, own := in.Paths[r.Path]; return !own })
			return o.Cache.remember(gctx, in, i)
		})
	}
	return g.Wait()
}

func pathsOf(in *Installed) []string {
	out := make([]string, 0, len(in.Paths))
	for p := range in.Paths {
		out = append(out, p)
	}
	return out
}

// sites returns the folders of the image that Python looks into for packages, the one that
// path files lead to with them.
func (o *opening) sites(made []*Installed) []string {
	var out []string
	add := func(dir string) {
		if dir = strings.TrimPrefix(dir, "/"); !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	if o.Apart {
		for _, in := range made {
			add(o.base.target.Layout(in.Name, in.Version, true).Purelib)
		}
	}
	add(o.base.target.Platlib)
	add(o.base.target.Purelib)
	return out
}

// remember keeps what an import read with its installation.
func (c *Cache) remember(ctx context.Context, in *Installed, i *python.Import) error {
	in.Import = i
	unlock, err := c.lock(ctx, "package-"+in.Key)
	if err != nil {
		return err
	}
	defer unlock()
	if _, there := c.installed(in.Key); !there { // it was removed meanwhile
		return nil
	}
	return c.mark(in)
}

// unpack writes the files of installations that Python may read below dir, as its
// sandbox, another user, can read them.
func (o *opening) unpack(ctx context.Context, dir string, made []*Installed) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	u := unpacker{root: root, sites: o.sites(made), folders: make(map[string]bool)}
	for _, in := range made {
		if err := u.add(ctx, o.Cache.path("installed", in.Key+".tar")); err != nil {
			return fmt.Errorf("%s %s: %w", in.Name, in.Version, err)
		}
	}
	return nil
}

type unpacker struct {
	root    *os.Root
	sites   []string
	folders map[string]bool // that were made
}

func (u *unpacker) add(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		inside := slices.ContainsFunc(u.sites, func(s string) bool { return strings.HasPrefix(h.Name, s+"/") })
		if h.Typeflag != tar.TypeReg || !inside {
			continue
		}
		if err := u.folder(path.Dir(h.Name)); err != nil {
			return err
		}
		if err := u.file(h.Name, t); err != nil {
			return err
		}
	}
}

// folder makes a folder that the sandbox can look into, whatever the umask.
func (u *unpacker) folder(dir string) error {
	if dir == "." || u.folders[dir] {
		return nil
	}
	if err := u.folder(path.Dir(dir)); err != nil {
		return err
	}
	u.folders[dir] = true
	name := filepath.FromSlash(dir)
	return errors.Join(u.root.Mkdir(name, 0o755), u.root.Chmod(name, 0o755))
}

func (u *unpacker) file(name string, from io.Reader) (err error) {
	_ = u.root.Remove(name) // of an earlier package: the later one's counts
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, from); err != nil {
		return err
	}
	return f.Chmod(0o644)
}
