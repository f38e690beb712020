package main

import (
	"github.com/spf13/cobra"
)

// A diffResult compares the chunks of two images.
type diffResult struct {
	SharedChunks int   `json:"shared_chunks"`
	SharedBytes  int64 `json:"shared_bytes"`
	OnlyAChunks  int   `json:"only_a_chunks"`
	OnlyABytes   int64 `json:"only_a_bytes"`
	OnlyBChunks  int   `json:"only_b_chunks"`
	OnlyBBytes   int64 `json:"only_b_bytes"`
}

func (a *app) diffCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "diff A B",
		Short:             "Compare what two images store: shared and unique chunks, both ways",
		Example:           `  rivulet diff nginx-old nginx`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeImages(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			var sets [2]chunkSet
			for i, ref := range args {
				image, err := a.find(cmd.Context(), view, ref, false)
				if err != nil {
					return err
				}
				sets[i] = distinct(image.Map)
			}
			onlyA, onlyB := sets[0].without(sets[1]), sets[1].without(sets[0])
			r := diffResult{
				SharedChunks: len(sets[0]) - len(onlyA), SharedBytes: sets[0].bytes() - onlyA.bytes(),
				OnlyAChunks: len(onlyA), OnlyABytes: onlyA.bytes(),
				OnlyBChunks: len(onlyB), OnlyBBytes: onlyB.bytes(),
			}
			if asJSON {
				return a.printJSON(r)
			}
			a.printf("shared      %6d chunks  %10s\n", r.SharedChunks, size(r.SharedBytes))
			for i, only := range []chunkSet{onlyA, onlyB} {
				a.printf("only in %s  %6d chunks  %10s  (%s of its chunks)  %s\n", string(rune('A'+i)),
					len(only), size(only.bytes()), percent(int64(len(only)), int64(len(sets[i]))), args[i])
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}
