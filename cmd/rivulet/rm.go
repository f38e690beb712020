package main

import (
	"context"
	"errors"
	"math"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

func (a *app) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Take the names of images away",
		Long: `Rm removes names. The image can still be reached by its digest, and its chunks,
which other images may share, stay in the store.`,
		Example:           `  rivulet rm nginx-old`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.openStore(false)
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := removeName(cmd.Context(), store, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// removeName removes a name, or that of an image reference as it was published.
func removeName(ctx context.Context, store origin.Store, name string) error {
	err := catalog.Remove(ctx, store, name)
	if !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	for _, other := range spellings(name) {
		if catalog.Remove(ctx, store, other) == nil {
			return nil
		}
	}
	return err
}
