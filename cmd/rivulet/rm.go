package main

import (
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/catalog"
)

func (a *app) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Take the names of images away",
		Long: `Rm removes names. The image can still be reached by its digest, and its chunks,
which other images may share, stay in the store.`,
		Example: `  rivulet rm nginx-old`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.openStore(false)
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := catalog.Remove(cmd.Context(), store, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
