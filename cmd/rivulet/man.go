package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand generates the manual pages; it is for packagers and "make man".
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages into a folder",
		Example: "  rivulet man doc/man",
		Hidden:  true,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			fixed := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC) // the same bytes from each run
			return doc.GenManTree(root, &doc.GenManHeader{Title: "RIVULET", Section: "1", Date: &fixed, Source: "rivulet"}, args[0])
		},
	}
}
