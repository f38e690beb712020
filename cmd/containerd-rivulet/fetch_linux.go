package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/rivuletfs/rivulet/credentials"
	"github.com/rivuletfs/rivulet/internal/runtimedir"
)

// fetchOptions say of which containerd the content is completed.
type fetchOptions struct {
	containerd, namespace, logins string
	insecure                      bool
}

func fetchCommand(out io.Writer) *cobra.Command {
	var o fetchOptions
	cmd := &cobra.Command{
		Use:   "fetch IMAGE...",
		Short: "Download the layers that a lazily pulled image came without",
		Long: `Fetch downloads the layers of images, which were pulled without them, into
containerd's content store: what pushes, exports, saves or converts an image, or
makes a new one of it, reads them there. Containers go on as they are.

The layers are those of the image as it was pulled, whatever its tag leads to by
now, from the repositories that it was pulled from. Logins are those that the
snapshotter has, then docker's.`,
		Example: `  containerd-rivulet fetch registry.example/app:1
  ctr images push registry.example/other:1 registry.example/app:1
  containerd-rivulet fetch --namespace moby alpine && docker save alpine`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args, out) },
	}
	f := cmd.Flags()
	f.StringVar(&o.containerd, "containerd", defaultContainerd, "containerd's socket")
	f.StringVarP(&o.namespace, "namespace", "n", "default", "containerd's namespace: k8s.io of a kubelet, moby of docker")
	f.StringVar(&o.logins, "logins", "", "the snapshotter's socket for logins (default "+credentials.SocketName+" in the runtime folder)")
	f.BoolVar(&o.insecure, "insecure", false, "plain HTTP to registries on other machines, too")
	return cmd
}

func (o *fetchOptions) run(ctx context.Context, names []string, out io.Writer) error {
	if o.logins == "" {
		run, err := runtimedir.Make()
		if err != nil {
			return err
		}
		o.logins = filepath.Join(run, credentials.SocketName)
	}
	conn, err := grpc.NewClient("unix:"+o.containerd, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("containerd at %s: %w", o.containerd, err)
	}
	defer func() { _ = conn.Close() }()
	ctx = namespaces.WithNamespace(ctx, o.namespace)
	f := &fetcher{
		images: imagesapi.NewImagesClient(conn),
		store:  contentproxy.NewContentStore(contentapi.NewContentClient(conn)),
		remote: []remote.Option{remote.WithAuthFromKeychain(authn.NewMultiKeychain(credentials.NewClient(o.logins), authn.DefaultKeychain)), remote.WithUserAgent("rivulet")},
	}
	if o.insecure {
		f.parse = append(f.parse, name.Insecure)
	}
	for _, image := range names {
		n, size, err := f.image(ctx, image)
		if err != nil {
			return fmt.Errorf("fetch %s: %w", image, err)
		}
		_, _ = fmt.Fprintf(out, "%s: %d layers, %d bytes downloaded\n", image, n, size)
	}
	return nil
}

// A fetcher completes what containerd has of images.
type fetcher struct {
	images imagesapi.ImagesClient
	store  content.Store
	parse  []name.Option
	remote []remote.Option
}

// image downloads what layers an image lacks, of all platforms whose manifests are there.
func (f *fetcher) image(ctx context.Context, ref string) (layers int, size int64, err error) {
	got, err := f.find(ctx, ref)
	if err != nil {
		return 0, 0, err
	}
	target := ocispec.Descriptor{MediaType: got.Target.MediaType, Digest: digest.Digest(got.Target.Digest), Size: got.Target.Size}
	handler := func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		below, err := images.Children(ctx, f.store, d)
		if errdefs.IsNotFound(err) && d.Digest != target.Digest {
			return nil, nil // of a platform that was not pulled
		}
		if err != nil || !images.IsManifestType(d.MediaType) {
			return below, err
		}
		for _, l := range below {
			fetched, err := f.layer(ctx, got.Name, d, l)
			if err != nil {
				return nil, err
			}
			if fetched {
				layers, size = layers+1, size+l.Size
			}
		}
		return nil, nil
	}
	err = images.Walk(ctx, images.HandlerFunc(handler), target)
	return layers, size, err
}

// find returns the image of that name, or of what docker would call it.
func (f *fetcher) find(ctx context.Context, ref string) (*imagesapi.Image, error) {
	tries := []string{ref}
	if n, err := name.ParseReference(ref, f.parse...); err == nil {
		full := n.Name()
		if rest, is := strings.CutPrefix(full, name.DefaultRegistry+"/"); is {
			full = "docker.io/" + rest
		}
		tries = append(tries, full)
	}
	for _, t := range slices.Compact(tries) {
		r, err := f.images.Get(ctx, &imagesapi.GetImageRequest{Name: t})
		if err == nil {
			return r.Image, nil
		}
		if status.Code(err) != codes.NotFound {
			return nil, err
		}
	}
	return nil, errors.New("containerd has no such image in this namespace: pull it first, or choose another by --namespace")
}

// layer downloads a blob of a manifest, unless it is there.
func (f *fetcher) layer(ctx context.Context, image string, manifest, d ocispec.Descriptor) (bool, error) {
	if _, err := f.store.Info(ctx, d.Digest); !errdefs.IsNotFound(err) {
		return false, err
	}
	from, labels, err := f.sources(ctx, image, manifest)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, repository := range from {
		if err = f.download(ctx, repository, d, labels); err == nil {
			return true, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", repository, err))
	}
	return false, errors.Join(errs...)
}

// sourceLabel begins the labels that say which repositories of a host content is from.
const sourceLabel = "containerd.io/distribution.source."

// sources returns the repositories that a manifest was pulled from, that of the image's
// name first, and the labels that say so. The labels have hosts without their ports: those
// of the name's host are taken to be on its port.
func (f *fetcher) sources(ctx context.Context, image string, manifest ocispec.Descriptor) (list []name.Repository, labels map[string]string, err error) {
	info, err := f.store.Info(ctx, manifest.Digest)
	if err != nil {
		return nil, nil, err
	}
	var own name.Registry
	if ref, err := name.ParseReference(image, f.parse...); err == nil { // else it is a digest, as the kubelet's are
		own = ref.Context().Registry
		list = append(list, ref.Context())
	}
	ownHost, _, _ := strings.Cut(own.Name(), ":")
	labels = make(map[string]string)
	for key, value := range info.Labels {
		host, is := strings.CutPrefix(key, sourceLabel)
		if !is {
			continue
		}
		labels[key] = value
		if host == ownHost {
			host = own.Name()
		}
		for _, path := range strings.Split(value, ",") {
			if r, err := name.NewRepository(host+"/"+path, f.parse...); err == nil && !slices.Contains(list, r) {
				list = append(list, r)
			}
		}
	}
	if len(list) == 0 {
		return nil, nil, fmt.Errorf("nobody says which repository manifest %s is from", manifest.Digest)
	}
	return list, labels, nil
}

// download puts a blob into containerd's store, which checks size and digest.
func (f *fetcher) download(ctx context.Context, from name.Repository, d ocispec.Descriptor, labels map[string]string) error {
	l, err := remote.Layer(from.Digest(d.Digest.String()), append(slices.Clip(f.remote), remote.WithContext(ctx))...)
	if err != nil {
		return err
	}
	blob, err := l.Compressed()
	if err != nil {
		return err
	}
	defer func() { _ = blob.Close() }()
	return content.WriteBlob(ctx, f.store, "rivulet-fetch-"+d.Digest.String(), blob, d, content.WithLabels(labels))
}
