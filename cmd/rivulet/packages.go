package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/packages"
	"github.com/rivuletfs/rivulet/packages/lock"
	"github.com/rivuletfs/rivulet/packages/wheel"
	"github.com/rivuletfs/rivulet/publish"
)

// packagesEnvironment names the variable that says where packages are kept.
const packagesEnvironment = "RIVULET_PACKAGES"

// boundEnvironment names the variable that says how much is kept there.
const boundEnvironment = "RIVULET_PACKAGES_SIZE"

// hostsEnvironment names the variable that names hosts where files of indexes lie, by spaces.
const hostsEnvironment = "RIVULET_PACKAGES_HOSTS"

func packagesDir() (string, error) {
	if dir := os.Getenv(packagesEnvironment); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/rivulet-packages", nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%s is not set, and there is no cache folder of the user's: %w", packagesEnvironment, err)
	}
	return filepath.Join(base, "rivulet-packages"), nil
}

func openPackages() (*packages.Cache, error) {
	dir, err := packagesDir()
	if err != nil {
		return nil, err
	}
	c, err := packages.OpenCache(dir)
	if err != nil {
		return nil, err
	}
	if text := os.Getenv(boundEnvironment); text != "" {
		if c.Bound, err = parseSize(text); err != nil || c.Bound <= 0 {
			return nil, usagef("%s=%q: want a size, such as 20G", boundEnvironment, text)
		}
	}
	return c, nil
}

// isPackage reports whether a source is opened by an extension.
func isPackage(src string) bool {
	scheme, _, _ := strings.Cut(src, ":")
	return scheme == packages.NodeScheme || slices.Contains(packages.Schemes, scheme)
}

// writeLock writes the lock of what was published.
func (a *app) writeLock(ctx context.Context, o origin.Origin, res *publish.Result, file string) error {
	text, err := a.lockText(ctx, a.view(o), res.BlockMap, packages.Label)
	if err != nil {
		return err
	}
	return a.writeFile(file, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// lockText returns the lock that an image's configuration has under a label.
func (a *app) lockText(ctx context.Context, v *generation.View, image, label string) (string, error) {
	i, err := a.find(ctx, v, image, false)
	if err != nil {
		return "", err
	}
	m, err := a.unlock(ctx, v, i)
	if err != nil {
		return "", err
	}
	var config struct {
		Config struct{ Labels map[string]string } `json:"config"`
	}
	if err := json.Unmarshal(m.Info().Config, &config); err != nil {
		return "", fmt.Errorf("image %q: configuration: %w", image, err)
	}
	text := config.Config.Labels[label]
	if text == "" {
		return "", fmt.Errorf("image %q: %w", image, errNoPackages)
	}
	return text, nil
}

var errNoPackages = errors.New("it was published without such packages")

func (a *app) lockOf(ctx context.Context, v *generation.View, image string) (*lock.Lock, error) {
	text, err := a.lockText(ctx, v, image, packages.Label)
	if err != nil {
		return nil, err
	}
	l, err := lock.Parse([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", image, err)
	}
	return l, nil
}

// lockOfStored returns the lock of an image of the chosen store.
func (a *app) lockOfStored(ctx context.Context, image string) (*lock.Lock, error) {
	view, err := a.openView(ctx)
	if err != nil {
		return nil, err
	}
	return a.lockOf(ctx, view, image)
}

func (a *app) packagesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "packages",
		Short: "See the Python packages of images, and those that are installed for further ones",
		Long: `Packages that were published once are kept installed in a folder: that of
RIVULET_PACKAGES, else /var/cache/rivulet-packages or one in your own cache
folder. An image that has them is then published without installing anything.
What an image has stands in its lock, a pylock.toml.`,
		Example: `  rivulet packages ls
  rivulet packages why function urllib3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.packagesLsCommand(), a.packagesShowCommand(), a.packagesWhyCommand(), a.packagesLockCommand(), a.packagesRmCommand())
	return cmd
}

// A listedPackage is a line of packages ls.
type listedPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Wheel   string `json:"wheel"`
	SHA256  string `json:"sha256"`
	Target  string `json:"target,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"` // of the layer
	Files   int    `json:"files,omitempty"`
	DiffID  string `json:"diff_id,omitempty"`
	Used    string `json:"used,omitempty"`

	// What importing it took, measured once where it was installed.
	Modules       []string `json:"modules,omitempty"`
	ImportSeconds float64  `json:"import_seconds,omitempty"`
	ImportBytes   int64    `json:"import_bytes,omitempty"` // of its own files
	ImportError   string   `json:"import_error,omitempty"`
}

// imported says in a few words how long an import took.
func (p *listedPackage) imported() string {
	switch {
	case p.ImportError != "":
		return "fails"
	case len(p.Modules) == 0:
		return "-"
	}
	return fmt.Sprintf("%.0f ms", p.ImportSeconds*1000)
}

// importedLong says what was imported, how long it took and what it read.
func (p *listedPackage) importedLong() string {
	names := strings.Join(p.Modules, ", ")
	switch {
	case p.ImportError != "":
		return fmt.Sprintf("%s: fails: %s", names, p.ImportError)
	case len(p.Modules) == 0:
		return "-"
	}
	return fmt.Sprintf("%s: %.0f ms, reads %s of its files", names, p.ImportSeconds*1000, size(p.ImportBytes))
}

func listedInstalled(in *packages.Installed) listedPackage {
	p := listedPackage{
		Name: in.Name, Version: in.Version, Wheel: in.Wheel, SHA256: in.SHA256, Target: in.Target, Bytes: in.Size,
		Files: len(in.Paths), DiffID: in.DiffID, Used: in.Used.UTC().Format(time.DateTime),
	}
	if i := in.Import; i != nil {
		p.Modules, p.ImportSeconds, p.ImportBytes, p.ImportError = i.Modules, i.Seconds, i.Bytes(), i.Error
	}
	return p
}

func (a *app) packagesLsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [IMAGE]",
		Short: "List the packages that are installed here, or those of an image",
		Example: `  rivulet packages ls
  rivulet packages ls function`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list := []listedPackage{}
			if len(args) == 1 {
				l, err := a.lockOfStored(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				for _, p := range l.Packages {
					line := listedPackage{Name: p.Name, Version: p.Version}
					if len(p.Wheels) == 1 {
						line.Wheel, line.SHA256 = p.Wheels[0].FileName(), p.Wheels[0].SHA256()
					}
					list = append(list, line)
				}
			} else {
				installed, err := installedPackages(nil)
				if err != nil {
					return err
				}
				for _, in := range installed {
					list = append(list, listedInstalled(in))
				}
			}
			if asJSON {
				return a.printJSON(list)
			}
			return a.printPackages(list, len(args) == 0)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) printPackages(list []listedPackage, installed bool) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	if installed {
		fmt.Fprintln(w, "NAME\tVERSION\tFILES\tSIZE\tIMPORT\tUSED\tFOR")
	} else {
		fmt.Fprintln(w, "NAME\tVERSION\tWHEEL")
	}
	for _, p := range list {
		if installed {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", printable(p.Name), printable(p.Version), p.Files, size(p.Bytes), p.imported(), p.Used, printable(p.Target))
		} else {
			fmt.Fprintf(w, "%s\t%s\t%s\n", printable(p.Name), printable(p.Version), printable(p.Wheel))
		}
	}
	return w.Flush()
}

// installedPackages returns what is installed, or of that the packages that are named, as
// NAME or NAME==VERSION. A name that nothing has is an error.
func installedPackages(names []string) ([]*packages.Installed, error) {
	cache, err := openPackages()
	if err != nil {
		return nil, err
	}
	all, err := cache.List()
	if err != nil || len(names) == 0 {
		return all, err
	}
	var out []*packages.Installed
	for _, n := range names {
		name, version, _ := strings.Cut(n, "==")
		before := len(out)
		for _, in := range all {
			if wheel.Normalize(in.Name) == wheel.Normalize(name) && (version == "" || in.Version == version) {
				out = append(out, in)
			}
		}
		if len(out) == before {
			return nil, fmt.Errorf("package %s is not installed here; 'rivulet packages ls' lists those that are", n)
		}
	}
	return out, nil
}

func (a *app) packagesShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show PACKAGE[==VERSION]",
		Short: "Show an installed package, and the images that have it",
		Long: `Show tells of a package that is installed here what it was made from, and which
of the store's images have it. Images that are locked for others are left out.`,
		Example: `  rivulet packages show numpy`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := installedPackages(args)
			if err != nil {
				return err
			}
			users, err := a.packageUsers(cmd.Context())
			if err != nil {
				return err
			}
			shown := []shownPackage{}
			for _, in := range list {
				images := users[in.SHA256]
				slices.Sort(images)
				shown = append(shown, shownPackage{listedInstalled(in), images})
			}
			if asJSON {
				return a.printJSON(shown)
			}
			for _, p := range shown {
				a.printf("%s %s\n  wheel   %s\n  sha256  %s\n  for     %s\n  layer   %s, %s, %d files\n  used    %s\n", p.Name, p.Version, p.Wheel, p.SHA256, p.Target, p.DiffID, size(p.Bytes), p.Files, p.Used)
				a.printf("  import  %s\n", printable(p.importedLong()))
				a.printf("  images  %s\n", strings.Join(p.Images, " "))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// A shownPackage is what packages show tells.
type shownPackage struct {
	listedPackage
	Images []string `json:"images"` // that have it, of those that this user can open
}

// packageUsers returns the names of the images that have each wheel, by its digest.
func (a *app) packageUsers(ctx context.Context) (map[string][]string, error) {
	view, err := a.openView(ctx)
	if err != nil {
		return nil, err
	}
	users := make(map[string]map[string]bool)
	var names []string
	if err := view.Names(ctx, func(name string, _ origin.Digest) error {
		names = append(names, name)
		return nil
	}); err != nil {
		return nil, err
	}
	for _, name := range names {
		l, err := a.lockOf(ctx, view, name)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			continue // without packages, or not for this user
		}
		for _, p := range l.Packages {
			for i := range p.Wheels {
				sum := p.Wheels[i].SHA256()
				if users[sum] == nil {
					users[sum] = make(map[string]bool)
				}
				users[sum][name] = true
			}
		}
	}
	out := make(map[string][]string)
	for sum, images := range users {
		out[sum] = slices.Collect(maps.Keys(images))
	}
	return out, nil
}

func (a *app) packagesWhyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "why IMAGE PACKAGE",
		Short: "Show why an image has a package: what needs it",
		Example: `  rivulet packages why function urllib3
  rivulet packages why function idna`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.lockOfStored(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			there := slices.ContainsFunc(l.Packages, func(p lock.Package) bool { return wheel.Normalize(p.Name) == wheel.Normalize(args[1]) })
			if !there {
				return fmt.Errorf("image %q has no package %s; 'rivulet packages ls %s' lists those that it has", args[0], args[1], args[0])
			}
			ways := l.Why(args[1], wheel.Normalize)
			if asJSON {
				return a.printJSON(append([][]string{}, ways...))
			}
			if len(ways) == 0 {
				a.printf("%s: the lock does not say what needs it\n", args[1])
			}
			for _, way := range ways {
				a.printf("%s\n", strings.Join(way, " > "))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of ways, each the names from what was asked for to the package")
	return cmd
}

func (a *app) packagesLockCommand() *cobra.Command {
	var npm bool
	cmd := &cobra.Command{
		Use:   "lock IMAGE",
		Short: "Print the lock of an image's packages, a pylock.toml",
		Long: `Lock prints what was chosen when the image was published. 'rivulet publish
pylock:FILE' of it on the same image makes the same disk. With --npm, it is the
package-lock.json of npm's packages.`,
		Example: `  rivulet packages lock function > pylock.toml
  rivulet packages lock --npm function > package-lock.json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			label := packages.Label
			if npm {
				label = packages.NodeLabel
			}
			text, err := a.lockText(cmd.Context(), view, args[0], label)
			if err != nil {
				return err
			}
			a.printf("%s", text)
			return nil
		},
	}
	cmd.Flags().BoolVar(&npm, "npm", false, "print the lock of npm's packages")
	return cmd
}

func (a *app) packagesRmCommand() *cobra.Command {
	var all, rest bool
	var unused time.Duration
	cmd := &cobra.Command{
		Use:   "rm [PACKAGE[==VERSION]...]",
		Short: "Remove packages that are installed here",
		Long: `Rm makes room on this machine. Images that were published keep what they have;
a package that is asked for again is installed again. With --rest, what
installing needed goes too: wheels, and the trees of images.`,
		Example: `  rivulet packages rm numpy==1.26.4
  rivulet packages rm --unused-for 720h --rest`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !all && unused == 0 && !rest && len(args) == 0 {
				return usagef("name packages, or give --all, --unused-for or --rest")
			}
			if (all || unused > 0) && len(args) > 0 {
				return usagef("name packages, or give --all or --unused-for, not both")
			}
			cache, err := openPackages()
			if err != nil {
				return err
			}
			var list []*packages.Installed
			if len(args) > 0 || all || unused > 0 {
				if list, err = installedPackages(args); err != nil {
					return err
				}
			}
			for _, in := range list {
				if unused > 0 && time.Since(in.Used) < unused {
					continue
				}
				if err := cache.Remove(in); err != nil {
					return err
				}
				a.note("removed %s %s, %s", in.Name, in.Version, size(in.Size))
			}
			if rest {
				return cache.RemoveRest()
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "remove all packages")
	f.DurationVar(&unused, "unused-for", 0, "remove packages that no image was published with for so long, such as 720h")
	f.BoolVar(&rest, "rest", false, "remove wheels and the trees of images too")
	return cmd
}
