// Command commitimage makes an image of a container's snapshot, by containerd's services
// alone, as clients of containerd do: for tests.
//
//	commitimage CONTAINERD NAMESPACE SNAPSHOTTER SNAPSHOT IMAGE NEW
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/diff"
	diffproxy "github.com/containerd/containerd/v2/core/diff/proxy"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	leaseproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	snapshotproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	if len(os.Args) != 7 {
		fmt.Fprintln(os.Stderr, "usage: commitimage CONTAINERD NAMESPACE SNAPSHOTTER SNAPSHOT IMAGE NEW")
		os.Exit(2)
	}
	ctx := namespaces.WithNamespace(context.Background(), os.Args[2])
	if err := commit(ctx, os.Args[1], os.Args[3], os.Args[4], os.Args[5], os.Args[6]); err != nil {
		fmt.Fprintln(os.Stderr, "commitimage:", err)
		os.Exit(1)
	}
}

func commit(ctx context.Context, containerd, snapshotter, snapshot, image, made string) error {
	conn, err := grpc.NewClient("unix:"+containerd, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	// Without a lease, what no image has yet may be collected meanwhile.
	held := leaseproxy.NewLeaseManager(leasesapi.NewLeasesClient(conn))
	lease, err := held.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err != nil {
		return err
	}
	defer func() { _ = held.Delete(ctx, lease) }()
	ctx = leases.WithLease(ctx, lease.ID)
	store := contentproxy.NewContentStore(contentapi.NewContentClient(conn))
	list := imagesapi.NewImagesClient(conn)
	got, err := list.Get(ctx, &imagesapi.GetImageRequest{Name: image})
	if err != nil {
		return err
	}
	target := ocispec.Descriptor{MediaType: got.Image.Target.MediaType, Digest: digest.Digest(got.Image.Target.Digest), Size: got.Image.Target.Size}
	manifest, err := images.Manifest(ctx, store, target, platforms.Default())
	if err != nil {
		return err
	}
	b, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return err
	}
	var config ocispec.Image
	if err := json.Unmarshal(b, &config); err != nil {
		return err
	}
	sn := snapshotproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), snapshotter)
	differ, ok := diffproxy.NewDiffApplier(diffapi.NewDiffClient(conn)).(diff.Comparer)
	if !ok {
		return errors.New("containerd's client does not compare")
	}
	layer, err := rootfs.CreateDiff(ctx, snapshot, sn, differ)
	if err != nil {
		return fmt.Errorf("difference: %w", err)
	}
	info, err := store.Info(ctx, layer.Digest)
	if err != nil {
		return err
	}
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.Digest(info.Labels["containerd.io/uncompressed"]))
	config.History = append(config.History, ocispec.History{CreatedBy: "commitimage"})
	next := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: append(manifest.Layers, layer)}
	if next.Config, err = put(ctx, store, ocispec.MediaTypeImageConfig, config, nil); err != nil {
		return err
	}
	labels := map[string]string{"containerd.io/gc.ref.content.config": next.Config.Digest.String()}
	for i, l := range next.Layers {
		labels[fmt.Sprint("containerd.io/gc.ref.content.l.", i)] = l.Digest.String()
	}
	d, err := put(ctx, store, next.MediaType, next, labels)
	if err != nil {
		return err
	}
	_, err = list.Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{
		Name: made, Target: &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size},
	}})
	return err
}

// put writes a document into the content store.
func put(ctx context.Context, store content.Store, mediaType string, v any, labels map[string]string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, content.WriteBlob(ctx, store, d.Digest.String(), bytes.NewReader(b), d, content.WithLabels(labels))
}
