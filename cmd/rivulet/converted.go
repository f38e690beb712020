package main

import (
	"context"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/registry"
)

// A conversion says which image of the store's repository gets a converted one beside it,
// and at which tag.
type conversion struct {
	repository string
	image      string // a tag or a digest
	tag        string
}

// A converter is an origin beside images.
type converter interface {
	Converted(ctx context.Context, image string, g origin.GenerationID, blockMap origin.Digest, tag string) (origin.Digest, error)
}

var _ converter = (*registry.Origin)(nil)

// conversion returns what --converted means for these sources, or nil without it. tag is
// of --converted-tag.
func (a *app) conversion(wanted bool, tag string, srcs []string) (*conversion, error) {
	if !wanted && tag == "" {
		return nil, nil
	}
	url, err := a.chosenStore()
	if err != nil {
		return nil, err
	}
	repository, opts, err := registry.ParseURL(url)
	if err != nil {
		return nil, usagef("--converted: the store is not in a registry (oci://REGISTRY/REPOSITORY)")
	}
	var nameOpts []name.Option
	if opts.Insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	repo, err := name.NewRepository(repository, nameOpts...)
	if err != nil {
		return nil, usagef("--converted: %w", err)
	}
	var ref name.Reference
	if len(srcs) == 1 {
		ref, err = name.ParseReference(srcs[0], nameOpts...)
	}
	if ref == nil || err != nil || ref.Context().Name() != repo.Name() {
		return nil, usagef("--converted: the source must be one image in the repository of the store, such as %s:TAG", repo.Name())
	}
	c := &conversion{repository: repo.Name(), image: ref.Identifier(), tag: tag}
	_, byDigest := ref.(name.Digest)
	switch {
	case tag == "" && byDigest:
		return nil, usagef("--converted: %s has no tag; say with --converted-tag where to write to", srcs[0])
	case tag == "":
		c.tag = c.image + registry.ConvertedSuffix
	case tag == c.image:
		return nil, usagef("--converted-tag %s: that is the image's own tag, which stays as it is", tag)
	}
	if _, err := name.NewTag(c.repository+":"+c.tag, append(nameOpts, name.StrictValidation)...); err != nil || strings.ContainsAny(c.tag, "/:@") {
		return nil, usagef("--converted-tag %.150q: that is no tag", c.tag)
	}
	return c, nil
}

// write writes the converted image of a block map, and returns its name.
func (c *conversion) write(ctx context.Context, view *generation.View, blockMap string) (string, error) {
	i, err := view.Open(ctx, blockMap)
	if err != nil {
		return "", err
	}
	d, err := view.Origin().(converter).Converted(ctx, c.image, i.Generation(), i.Map.Digest(), c.tag)
	if err != nil {
		return "", err
	}
	return c.repository + ":" + c.tag + "@" + d.String(), nil
}
