package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/flatten/source"
	"github.com/rivuletfs/rivulet/publish"
)

// maxConverted is how many platforms of one image are converted.
const maxConverted = 64

func (a *app) convertCommand() *cobra.Command {
	var opts publish.Options
	var flags publishFlags
	var platforms []string
	cmd := &cobra.Command{
		Use:   "convert IMAGE [TARGET]",
		Short: "Give an image in a registry a disk beside it",
		Long: `Convert publishes an image of a registry into the repository that it is in, as
one step of a build, without root and without a store of its own: each platform's
image gets a disk, found from its digest, and a converted image is written at the
tag with -rivulet behind it. The image's own tag and digest stay as they are, and
whoever pulls it without rivulet gets what they always got.

With TARGET, the image is first copied there as it is, with all its platforms;
nothing is written to where it came from. Within one registry layers are mounted
and not sent.

The disk of this machine's platform, or the only one, has the image's reference for
its name; those of others have the platform behind it, as in app:1.2-linux-arm64.

Credentials are docker's. The disks are locked as publish locks them; a node that is
to run them needs one of the recipients' identities, or --open.`,
		Example: `  rivulet convert registry.example/team/app:1.2 --recipient age1...
  rivulet convert registry.example/team/app:1.2 --open --platform linux/arm64
  rivulet convert docker.io/library/python:3.12 registry.example/base/python:3.12`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.parse(&opts); err != nil {
				return err
			}
			if a.storeURL != "" {
				return usagef("--store: convert publishes into the image's own repository; use publish for another store")
			}
			return a.convert(cmd.Context(), args, platforms, &flags, opts)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&platforms, "platform", nil, "platform to convert, such as linux/arm64; may be repeated (default: all for Linux)")
	f.StringVar(&opts.TempDir, "temp", "", "folder for layers while they are cut (default: the system's)")
	flags.lockFlags(f, &opts)
	flags.predictFlag(f)
	f.StringVar(&flags.convertedTag, "converted-tag", "", "tag of the converted image (default: the image's and -rivulet)")
	f.BoolVar(&flags.json, "json", false, "print results as JSON, a line for each platform, and progress as JSON lines to standard error")
	return cmd
}

// convert publishes the image refs[0], or its copy at refs[1], into its own repository.
func (a *app) convert(ctx context.Context, refs, platforms []string, flags *publishFlags, opts publish.Options) error {
	if !source.IsReference(refs[0]) || isPackage(refs[0]) {
		return usagef("%s is in no registry; use publish for it", refs[0])
	}
	ref, err := name.ParseReference(refs[0])
	if err != nil {
		return usagef("%w", err)
	}
	client := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("rivulet")}
	at := ref
	if len(refs) == 2 {
		to, err := name.NewTag(refs[1], name.WithDefaultTag("latest"))
		if err != nil {
			return usagef("target: %w", err)
		}
		at = to
	}
	a.storeURL = "oci://" + at.Context().Name()
	to, err := a.conversion(true, flags.convertedTag, []string{at.Name()})
	if err != nil {
		return err
	}
	image, err := remote.Get(ref, client...)
	if err != nil {
		return fmt.Errorf("convert %s: %w", ref, err)
	}
	wanted, err := wantedPlatforms(image, platforms)
	if err != nil {
		return fmt.Errorf("convert %s: %w", ref, err)
	}
	if at != ref {
		if err := remote.Push(at, image, client...); err != nil {
			return fmt.Errorf("copy %s to %s: %w", ref, at, err)
		}
	}
	for _, p := range wanted {
		o := opts
		o.Source.Platform = p
		o.Name = at.Name()
		if p != nil && len(wanted) > 1 {
			a.note("platform %s", p)
			if p.OS != runtime.GOOS || p.Architecture != runtime.GOARCH {
				o.Name += "-" + strings.ReplaceAll(p.String(), "/", "-") // a disk that nobody names is garbage one day
			}
		}
		if err := a.publishShown(ctx, []string{at.Name()}, flags, &o, to); err != nil {
			return err
		}
	}
	return nil
}

// wantedPlatforms returns those of an image that are to be converted; nil stands for the
// only one of an image that is no index.
func wantedPlatforms(image *remote.Descriptor, chosen []string) (wanted []*v1.Platform, err error) {
	for _, c := range chosen {
		p, err := v1.ParsePlatform(c)
		if err != nil {
			return nil, usagef("platform %q: %w", c, err)
		}
		wanted = append(wanted, p)
	}
	if len(wanted) > 0 {
		return wanted, nil
	}
	if !image.MediaType.IsIndex() {
		return []*v1.Platform{nil}, nil
	}
	index, err := image.ImageIndex()
	if err != nil {
		return nil, err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range list.Manifests {
		if m.MediaType.IsImage() && m.Platform != nil && m.Platform.OS == "linux" {
			wanted = append(wanted, m.Platform)
		}
	}
	switch {
	case len(wanted) == 0:
		return nil, errors.New("it has no image for Linux; choose one with --platform")
	case len(wanted) > maxConverted:
		return nil, fmt.Errorf("it has images for %d platforms; choose some with --platform", len(wanted))
	}
	return wanted, nil
}
