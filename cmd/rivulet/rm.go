package main

import (
	"context"
	"errors"
	"math"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
)

func (a *app) rmCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Take the names of images away",
		Long: `Rm removes names. The image can still be reached by its digest, and its chunks,
which other images may share, stay in the store until 'rivulet gc run' has
carried what is wanted to a new generation.`,
		Example:           `  rivulet rm nginx-old`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := removeName(cmd.Context(), view, name); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// removeName removes a name, or that of an image reference as it was published.
func removeName(ctx context.Context, v *generation.View, name string) error {
	err := v.Remove(ctx, name)
	if !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	for _, other := range spellings(name) {
		if v.Remove(ctx, other) == nil {
			return nil
		}
	}
	return err
}
