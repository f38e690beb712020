package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/internal/scratch"
	"github.com/rivuletfs/rivulet/packages/npm"
)

// NodeScheme is that of the sources that a Node opens:
//
//	npm:FILE[@DIR]
//
// where FILE is a package-lock.json, or a package.json that npm makes one of, and DIR
// the folder of the image that gets node_modules; the root without it.
const NodeScheme = "npm"

// NodeLabel is the label of an image's configuration that has the lock of its packages.
const NodeLabel = "com.github.rivuletfs.package-lock"

// nodeVersion changes with whatever changes the bytes that an installation makes.
const nodeVersion = "rivulet npm installation 1"

// A Node opens sources of npm's packages; see [source.Extension]. It runs nothing of a package,
// no install scripts either. Calls of Open may run at once.
type Node struct {
	Cache   *Cache
	TempDir string
	Tell    func(line string) // as of Python
	// Registry is the address of the registry, and ends in "/"; the default is npm's
	// setting on this machine.
	Registry string
}

var _ source.Extension = (*Node)(nil)

// Open implements source.Extension. Packages are for this machine's architecture, and for glibc.
func (n *Node) Open(ctx context.Context, srcs []string, _ []*source.Layer) (*source.Image, error) {
	var made []*Installed
	var locks []string
	for _, src := range srcs {
		_, rest, _ := strings.Cut(src, ":")
		file, dir, err := source.SplitDir(rest)
		if err != nil {
			return nil, err
		}
		data, err := n.lock(ctx, file)
		if err != nil {
			return nil, err
		}
		list, err := npm.Parse(data, platform())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		part, err := n.install(ctx, list, dir, n.registry(ctx))
		if err != nil {
			return nil, err
		}
		n.tellScripts(list)
		made, locks = append(made, part...), append(locks, string(data))
	}
	if len(locks) > 1 {
		return nil, errors.New("several npm: sources follow one another: make one package.json of them")
	}
	tellCollisions(made, n.Tell)
	img, err := n.Cache.image(made)
	if err != nil {
		return nil, err
	}
	img.Labels = map[string]string{NodeLabel: locks[0]}
	return img, nil
}

// platform is this machine's, in Node's words.
func platform() npm.Platform {
	cpu := map[string]string{"amd64": "x64", "386": "ia32"}[runtime.GOARCH]
	if cpu == "" {
		cpu = runtime.GOARCH
	}
	return npm.Platform{OS: "linux", CPU: cpu, Libc: "glibc"}
}

// lock returns the lock that file is, or that npm makes of it.
func (n *Node) lock(ctx context.Context, file string) ([]byte, error) {
	data, err := readFile(file, npm.MaxBytes)
	if err != nil || filepath.Base(file) != "package.json" {
		return data, err
	}
	program, err := exec.LookPath("npm")
	if err != nil {
		return nil, errors.New("npm makes a lock of package.json, and this machine has none: install npm, or give a package-lock.json")
	}
	temp, err := scratch.Make(n.TempDir, "npm")
	if err != nil {
		return nil, err
	}
	defer func() { _ = temp.Remove() }()
	dir := temp.Path
	if err := os.WriteFile(filepath.Join(dir, "package.json"), data, 0o600); err != nil {
		return nil, err
	}
	// It reads what the index says of packages, and runs nothing of them.
	cmd := exec.CommandContext(ctx, program, "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("npm: %s", npmReason(string(out), err))
	}
	return readFile(filepath.Join(dir, "package-lock.json"), npm.MaxBytes)
}

// npmReason returns the line of what npm says that tells most.
func npmReason(out string, err error) string {
	for line := range strings.Lines(out) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "npm ")
		if !ok {
			continue
		}
		text = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(text, "ERR!"), "error"))
		if text != "" && !strings.HasPrefix(text, "code ") {
			return text
		}
	}
	return err.Error()
}

func readFile(file string, max int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s: more than %d bytes", file, max)
	}
	return data, nil
}

// registry returns the registry's address.
func (n *Node) registry(ctx context.Context) string {
	if n.Registry != "" {
		return n.Registry
	}
	if out, err := exec.CommandContext(ctx, "npm", "config", "get", "registry").Output(); err == nil {
		if at := strings.TrimSpace(string(out)); strings.HasPrefix(at, "http") {
			return strings.TrimRight(at, "/") + "/"
		}
	}
	return npm.Registry
}

func (n *Node) install(ctx context.Context, list []npm.Package, dir, registry string) ([]*Installed, error) {
	made := make([]*Installed, len(list))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, runtime.GOMAXPROCS(0)))
	for i := range list {
		g.Go(func() (err error) {
			p := &list[i]
			if made[i], err = n.installOne(ctx, p, dir, registry); err != nil {
				return fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
			}
			return nil
		})
	}
	return made, g.Wait()
}

func (n *Node) installOne(ctx context.Context, p *npm.Package, dir, registry string) (*Installed, error) {
	of, err := json.Marshal(struct {
		Version, SHA512, Dir, Path string
		Bin                        map[string]string
	}{nodeVersion, p.SHA512, dir, p.Path, p.Bin})
	if err != nil {
		return nil, err
	}
	key := sha256.Sum256(of)
	return n.Cache.install(ctx, hex.EncodeToString(key[:]), p.Name+" "+p.Version, func(ctx context.Context, out io.Writer) (*Installed, error) {
		name := strings.ReplaceAll(strings.TrimPrefix(p.Name, "@"), "/", "-") + "-" + p.Version + ".tgz"
		file, err := n.Cache.fetch(ctx, p.Address(registry), name, p.SHA512, nil)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		spool, err := os.CreateTemp(n.TempDir, "rivulet-npm-*")
		if err != nil {
			return nil, err
		}
		defer func() { _ = spool.Close() }()
		if err := os.Remove(spool.Name()); err != nil {
			return nil, err
		}
		in := &Installed{Name: p.Name, Version: p.Version, Wheel: name, SHA512: p.SHA512, Target: "npm " + path.Join("/", dir, p.Path), Paths: make(map[string]string)}
		files, err := p.Write(ctx, f, dir, spool, out)
		for _, at := range files {
			in.Paths[at] = p.SHA512[:16]
		}
		return in, err
	})
}

func (n *Node) tellScripts(list []npm.Package) {
	for i := range list {
		if list[i].Scripts && n.Tell != nil {
			n.Tell(fmt.Sprintf("package %s %s has install scripts, which are not run", list[i].Name, list[i].Version))
		}
	}
}
