package main

import (
	"context"
	"errors"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/registry"
)

// A converted image has its disk at its own tag, and is a store by itself: of the address
// oci://REGISTRY/REPOSITORY:TAG. Three ways save a user from saying so twice:
//
//   - A command that takes images takes that address for one, and needs no --store.
//   - An image of the store's repository that the store does not know by that name, such as
//     REGISTRY/REPOSITORY:TAG, is looked for at its tag.
//   - So is a full reference that the user's own store does not know, if no other was chosen.

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

// readAtTag has a command read the converted image of its first full reference, if the
// chosen store does not know that image, and it is at its tag. What else there is to say
// about either, the command says.
func (a *app) readAtTag(cmd *cobra.Command, args []string) {
	image, address := a.atTag(cmd, args)
	if address == "" || !a.lacks(cmd.Context(), image) {
		return
	}
	if _, err := a.openURL(cmd.Context(), address, store.Options{}); err == nil {
		a.instead = address
	}
}

// lacks reports whether the chosen store has no such image.
func (a *app) lacks(ctx context.Context, image string) bool {
	view, err := a.openView(ctx)
	if err == nil {
		_, err = a.find(ctx, view, image, false)
	}
	return errors.Is(err, chunk.ErrNotFound) || a.noStoreChosen() && errors.Is(err, origin.ErrNoStore)
}

// atTag returns the first image of a command that may be at its tag, and the address that
// it has there; "" if there is none.
func (a *app) atTag(cmd *cobra.Command, args []string) (image, address string) {
	url, err := a.chosenStore()
	if err != nil || cmd.ValidArgsFunction == nil || a.instead != "" {
		return "", ""
	}
	if a.noStoreChosen() {
		for _, arg := range args {
			// Strict: with registry and tag, so that a slip of the pen asks nobody.
			if _, err := name.ParseReference(arg, name.StrictValidation); err != nil {
				continue
			}
			if _, _, is, err := registry.ParseImageURL(registry.Scheme + arg); is && err == nil {
				return arg, registry.Scheme + arg
			}
		}
		return "", ""
	}
	repository, opts, err := registry.ParseURL(url)
	if err != nil {
		return "", ""
	}
	var nameOpts []name.Option
	if opts.Insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	repo, err := name.NewRepository(repository, nameOpts...)
	if err != nil {
		return "", ""
	}
	for _, arg := range args {
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
		return arg, registry.Scheme + repository + sep + ref.Identifier() + query
	}
	return "", ""
}
