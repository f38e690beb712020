package main

import (
	"context"
	"errors"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// openMap reads the block map that ref means: a name or a digest, as
// catalog.Open has them, or an image reference in any of its spellings.
func openMap(ctx context.Context, store origin.Store, ref string) (*blockmap.Map, error) {
	m, err := catalog.Open(ctx, store, ref)
	if err == nil || !errors.Is(err, chunk.ErrNotFound) {
		return m, err
	}
	for _, other := range spellings(ref) {
		if m, otherErr := catalog.Open(ctx, store, other); !errors.Is(otherErr, chunk.ErrNotFound) {
			return m, otherErr
		}
	}
	return nil, err
}

// spellings returns what else an image may be called that was published from
// the registry reference ref: its full form and, if it has one, its digest.
func spellings(ref string) []string {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil
	}
	list := []string{r.Name()}
	if d, ok := r.(name.Digest); ok {
		list = append(list, d.DigestStr())
	}
	return list
}

// completeImages completes the names of images for the first limit arguments.
func (a *app) completeImages(limit int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= limit {
			return nil, cobra.ShellCompDirectiveDefault // a file, if anything
		}
		store, err := a.openStore(false)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		_ = catalog.Names(cmd.Context(), store, func(name string, _ origin.Digest) error {
			names = append(names, name)
			return nil
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
