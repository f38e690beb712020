package main

import (
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/origin"
)

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
		view, err := a.openView(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		_ = view.Names(cmd.Context(), func(name string, _ origin.Digest) error {
			names = append(names, name)
			return nil
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
