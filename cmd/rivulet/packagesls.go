package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/packages"
	"github.com/rivuletfs/rivulet/packages/wheel"
)

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
