package main

import (
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/profile"
)

func (a *app) profileMergeCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "merge FILE... --output FILE",
		Short: "Merge exported profiles of one image and workload into one",
		Long: `Merge merges profiles out of files, given the oldest first, into one file. - is
standard input or output.`,
		Example: `  rivulet profile merge host-a.profile host-b.profile --output both.profile`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if output == "" {
				return usagef("say where the merged profile goes, with --output FILE")
			}
			var list []*profile.Profile
			for _, name := range args {
				p, err := readProfileFile(name)
				if err != nil {
					return err
				}
				list = append(list, p)
			}
			m, err := profile.Merge(list...)
			if err != nil {
				return err
			}
			return a.writeProfile(output, m)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the file to write")
	return cmd
}
