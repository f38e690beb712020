package source

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// A remoteRepository is one repository of a registry.
type remoteRepository struct {
	repo   name.Repository
	puller *remote.Puller
}

func openRegistry(ctx context.Context, src string, opts *Options) (*Image, error) {
	var nameOpts []name.Option
	if opts.Insecure {
		nameOpts = append(nameOpts, name.Insecure)
	}
	ref, err := name.ParseReference(src, nameOpts...)
	if err != nil {
		return nil, fmt.Errorf("want %s: %w", Forms, err)
	}
	remoteOpts := []remote.Option{remote.WithAuthFromKeychain(opts.Keychain), remote.WithUserAgent("rivulet")}
	if opts.Insecure {
		remoteOpts = append(remoteOpts, remote.WithTransport(insecureTransport()))
	}
	puller, err := remote.NewPuller(remoteOpts...)
	if err != nil {
		return nil, err
	}
	desc, err := puller.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	top := v1.Descriptor{Digest: sha256Of(desc.Manifest)}
	if top.MediaType, err = typeOf(desc.Manifest); err != nil {
		return nil, err
	}
	img, err := imageAt(ctx, &remoteRepository{ref.Context(), puller}, top, desc.Manifest, opts.Platform)
	if err != nil {
		return nil, err
	}
	img.Reference = ref.Name()
	return img, nil
}

func insecureTransport() http.RoundTripper {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // Options.Insecure was set
	return t
}

func (r *remoteRepository) manifest(ctx context.Context, digest v1.Hash) ([]byte, error) {
	desc, err := r.puller.Get(ctx, r.repo.Digest(digest.String()))
	if err != nil {
		return nil, err
	}
	return desc.Manifest, nil
}

func (r *remoteRepository) blob(ctx context.Context, digest v1.Hash) (io.ReadCloser, error) {
	layer, err := r.puller.Layer(ctx, r.repo.Digest(digest.String()))
	if err != nil {
		return nil, err
	}
	return layer.Compressed()
}
