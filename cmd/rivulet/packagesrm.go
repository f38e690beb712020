package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/packages"
)

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
