package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
