package main

import (
	"context"
	"errors"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/registry"
)

// A converted image has its disk at its own tag, and is a store by itself: of the address
// oci://REGISTRY/REPOSITORY:TAG. Two ways save a user from saying so twice:
//
//   - A command that takes images takes that address for one, and needs no --store.
//   - An image of the store's repository that the store does not know by that name, such as
//     REGISTRY/REPOSITORY:TAG, is looked for at its tag.

// takeImageAddress makes the address of a converted image, where an image's name is
// wanted, the store, and replaces it in args by the name that the image has there.
func (a *app) takeImageAddress(cmd *cobra.Command, args []string) error {
	if cmd.ValidArgsFunction == nil || twoStores(args) { // copy reads them itself
		return nil
	}
	for i, arg := range args {
		if !strings.HasPrefix(arg, registry.Scheme) {
			continue
		}
		ref, _, is, err := registry.ParseImageURL(arg)
		switch {
		case err != nil:
			return usagef("image %q: %w", arg, err)
		case !is:
			return usagef("image %q: that is a store: say it with --store, and which image of it is meant; or add a converted image's tag", arg)
		case a.storeURL != "" && a.storeURL != arg:
			return usagef("image %q: it is a store by itself, so leave out --store, and images of other stores", arg)
		}
		a.storeURL, args[i] = arg, ref.Name()
	}
	return nil
}

// atTag returns the address of the converted image that a command may have meant which did
// not find an image in the repository that is its store; "" if there is none.
func (a *app) atTag(cmd *cobra.Command) string {
	url, err := a.chosenStore()
	if err != nil || cmd.ValidArgsFunction == nil {
		return ""
	}
	repository, opts, err := registry.ParseURL(url)
	if err != nil {
		return ""
	}
	var nameOpts []name.Option
	if opts.Insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	repo, err := name.NewRepository(repository, nameOpts...)
	if err != nil {
		return ""
	}
	for _, arg := range cmd.Flags().Args() {
		ref, err := name.ParseReference(arg, nameOpts...)
		if err != nil || ref.Context().Name() != repo.Name() {
			continue
		}
		sep := ":"
		if _, is := ref.(name.Digest); is {
			sep = "@"
		}
		_, query, has := strings.Cut(url, "?")
		if has {
			query = "?" + query
		}
		return registry.Scheme + repository + sep + ref.Identifier() + query
	}
	return ""
}

// runAtTag runs a command again that has ended with err, for the converted image that it
// may have meant. done is false if there is none.
func (a *app) runAtTag(ctx context.Context, cmd *cobra.Command, err error, args []string) (status int, done bool) {
	if !errors.Is(err, chunk.ErrNotFound) || a.instead != "" {
		return 0, false
	}
	address := a.atTag(cmd)
	if address == "" {
		return 0, false
	}
	a = &app{out: a.out, err: a.err, instead: address}
	if _, openErr := a.openURL(ctx, address, store.Options{}); openErr != nil {
		return 0, false
	}
	return a.run(ctx, args), true
}
