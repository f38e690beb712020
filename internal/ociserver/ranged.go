package main

import (
	"context"
	"fmt"
	"io"
	"sync"

	"cuelabs.dev/go/oci/ociregistry"
	"cuelabs.dev/go/oci/ociregistry/ocimem"
)

// ranged is a registry in memory whose blobs are read in parts. The one behind it
// takes the SHA-256 of a whole blob whenever a part of it is asked for, and lets
// nobody else in meanwhile.
type ranged struct {
	ociregistry.Interface

	mu    sync.Mutex
	blobs map[blobName]blob // that were asked for in parts
}

type blobName struct {
	repo   string
	digest ociregistry.Digest
}

// A blob is its bytes, which nobody changes, and what is said of them.
type blob struct {
	data []byte
	desc ociregistry.Descriptor
}

func newRanged(r ociregistry.Interface) *ranged {
	return &ranged{Interface: r, blobs: make(map[blobName]blob)}
}

// GetBlobRange implements ociregistry.Reader.
func (r *ranged) GetBlobRange(ctx context.Context, repo string, digest ociregistry.Digest, from, to int64) (ociregistry.BlobReader, error) {
	b, err := r.blob(ctx, blobName{repo, digest})
	if err != nil {
		return nil, err
	}
	size := int64(len(b.data))
	if to < 0 || to > size {
		to = size
	}
	if from < 0 || from > to {
		return nil, fmt.Errorf("range from %d to %d of %d bytes: %w", from, to, size, ociregistry.ErrRangeInvalid)
	}
	return ocimem.NewBytesReader(b.data[from:to], b.desc), nil
}

func (r *ranged) blob(ctx context.Context, name blobName) (blob, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, ok := r.blobs[name]; ok {
		return b, nil
	}
	whole, err := r.GetBlob(ctx, name.repo, name.digest)
	if err != nil {
		return blob{}, err
	}
	data, err := io.ReadAll(whole)
	if err != nil {
		return blob{}, err
	}
	b := blob{data, whole.Descriptor()}
	r.blobs[name] = b
	return b, whole.Close()
}

// DeleteBlob implements ociregistry.Deleter.
func (r *ranged) DeleteBlob(ctx context.Context, repo string, digest ociregistry.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.blobs, blobName{repo, digest})
	return r.Interface.DeleteBlob(ctx, repo, digest)
}
