package main

import (
	"context"
	"math"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/catalog"
	imagecopy "github.com/rivuletfs/rivulet/copy"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store"
)

func (a *app) copyCommand() *cobra.Command {
	var from, to, name string
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "copy {IMAGE... --to URL | SRC DST [IMAGE...]}",
		Short: "Copy images to another store, sending only what that lacks",
		Long: `Copy sends images as they are, sealed, with their keys for recipients and their
signatures, to another store. It needs no key, and every chunk is checked on the
way. It can be killed, and goes on where it stopped when it is run again.

With two stores, SRC and DST, it copies from one to the other the images that are
named, or all that have a name.`,
		Example: `  rivulet copy nginx --to dir:/backup
  rivulet copy dir:/srv/rivulet oci://registry.example/team/images
  rivulet copy --all --from dir:/backup --to dir:/srv/rivulet`,
		ValidArgsFunction: a.completeImages(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			if twoStores(args) && from == "" && to == "" {
				from, to, args = args[0], args[1], args[2:]
				all = all || len(args) == 0
			}
			switch {
			case to == "":
				return usagef("say where to copy to, with --to URL, or two stores")
			case all != (len(args) == 0):
				return usagef("name the images to copy, or copy --all of them")
			case name != "" && len(args) != 1:
				return usagef("--name is for one image")
			}
			if from != "" {
				a.storeURL = from
			}
			v, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			dst, err := a.openURL(cmd.Context(), to, store.Options{Create: true})
			if err != nil {
				return err
			}
			if all {
				if args, err = allNames(cmd.Context(), v); err != nil {
					return err
				}
			}
			return a.copyImages(cmd.Context(), v, dst, args, name, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "the store to copy to")
	f.StringVar(&from, "from", "", "the store to copy from (default that of --store)")
	f.StringVar(&name, "name", "", "the name to give it there (default its name here)")
	f.BoolVar(&all, "all", false, "copy all images that have a name")
	f.BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// twoStores reports whether arguments begin with the addresses of two stores.
func twoStores(args []string) bool {
	return len(args) >= 2 && store.IsAddress(args[0]) && store.IsAddress(args[1])
}

func allNames(ctx context.Context, v *generation.View) (names []string, err error) {
	err = v.Names(ctx, func(name string, _ origin.Digest) error {
		names = append(names, name)
		return nil
	})
	return names, err
}

func (a *app) copyImages(ctx context.Context, v *generation.View, dst origin.Origin, refs []string, name string, asJSON bool) error {
	results := []*imagecopy.Result{}
	for _, ref := range refs {
		r, err := a.copyImage(ctx, v, dst, ref, name)
		a.clearLine()
		if err != nil {
			return err
		}
		results = append(results, r)
		if !asJSON {
			a.printf("%s: %d chunks, %d new (%s)\n", r.Name, r.Chunks, r.NewChunks, size(r.NewBytes))
		}
	}
	if asJSON {
		return a.printJSON(results)
	}
	return nil
}

// copyImage copies what was found, and vouched for if that was asked, under the
// name by which it was found.
func (a *app) copyImage(ctx context.Context, v *generation.View, dst origin.Origin, ref, name string) (*imagecopy.Result, error) {
	i, err := a.find(ctx, v, ref, true)
	if err != nil {
		return nil, err
	}
	if _, isDigest := catalog.ParseRef(ref); isDigest && name == "" {
		return nil, usagef("image %q is asked for by its digest: say with --name what to call it there", ref)
	}
	if name == "" {
		name, err = openRef(ctx, func(ctx context.Context, ref string) (string, error) {
			_, err := v.Find(ctx, ref)
			return ref, err
		}, ref)
		if err != nil {
			return nil, err
		}
	}
	return imagecopy.Image(ctx, v, dst, i.Map.Digest().String(), imagecopy.Options{Name: name, Tell: a.countCopied(ref)})
}

// countCopied shows on a terminal how far a copy is.
func (a *app) countCopied(ref string) func(imagecopy.Progress) {
	if !isTerminal(a.err) {
		return nil
	}
	line := newStatusLine(a)
	return func(p imagecopy.Progress) {
		line.show("%s: chunk %d of %d, %s sent", ref, p.Done, p.Total, size(p.Sent))
	}
}
