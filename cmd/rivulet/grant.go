package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

func (a *app) grantCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "grant IMAGE RECIPIENT...",
		Short: "Let others read an image",
		Long: `Grant locks the key of an image for more readers: age or SSH public keys, or
the ARNs of AWS KMS keys. 'rivulet keys' prints one's own. Nothing that is
stored changes. Whoever has read a key keeps it. A name means what whoever can
write to the store says, so where that matters name the image by its digest.`,
		Example:           `  rivulet grant nginx age1...`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			to, err := readRecipients(ctx, args[1:], files)
			if err != nil {
				return err
			}
			if len(to) == 0 {
				return usagef("grant: to whom? Give a recipient, or --recipients-file")
			}
			view, err := a.openView(ctx)
			if err != nil {
				return err
			}
			m, added, err := a.grant(ctx, view, args[0], to)
			if err != nil {
				return err
			}
			a.note("%s, block map %v: locked for %d more, %d had it already", args[0], m, added, len(to)-added)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&files, "recipients-file", nil, "grant to all age and SSH recipients in this file too")
	return cmd
}

// grant returns the block map that it locked for more, and for how many more.
func (a *app) grant(ctx context.Context, v *generation.View, ref string, to []seal.Recipient) (origin.Digest, int, error) {
	i, err := a.find(ctx, v, ref, false)
	if err != nil {
		return origin.Digest{}, 0, err
	}
	if !i.Map.Locked() {
		return origin.Digest{}, 0, fmt.Errorf("image %q: is not locked; whoever can read the store can read it", ref)
	}
	id, err := a.identity(ctx, false)
	if err != nil {
		return origin.Digest{}, 0, err
	}
	at := everywhere{v.Origin(), v.Origin().Generation(i.Generation())}
	_, key, err := seal.UnlockKey(ctx, i.Map, at, id.opens...)
	if err != nil {
		return origin.Digest{}, 0, fmt.Errorf("image %q: %w", ref, err)
	}
	added, err := seal.Grant(ctx, i.Map, key, to, at)
	return i.Map.Digest(), added, err
}

// everywhere attaches to an image in all generations that have it.
type everywhere struct {
	origin origin.Origin
	origin.Attachments
}

// Attach implements origin.Attachments.
func (e everywhere) Attach(ctx context.Context, d origin.Digest, kind string, data []byte) error {
	return generation.Attach(ctx, e.origin, d, kind, data)
}
