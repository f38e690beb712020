package http

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/store/internal/byterange"
)

// Fetch implements [chunk.Source].
func (s *Store) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("fetch chunk %v: negative offset %d", id, off)
	}
	if len(dst) == 0 {
		_, err := s.Stat(ctx, id)
		return 0, err
	}
	err = s.do(ctx, int64(len(dst)), func(ctx context.Context) error {
		a, err := answer(s.ask(ctx, http.MethodGet, place.Hashed(place.Chunks, id), http.Header{"Range": {byterange.Header(off, len(dst))}}))
		if err != nil {
			return err
		}
		n, err = byterange.Read(a, dst, off)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("fetch chunk %v: %w", id, err)
	}
	return n, nil
}

// Request implements [origin.Requester]: the chunk's address.
func (s *Store) Request(_ context.Context, id chunk.ID) (origin.Request, error) {
	return origin.Request{URL: s.url(place.Hashed(place.Chunks, id))}, nil
}

// Stat implements [chunk.Prober].
func (s *Store) Stat(ctx context.Context, id chunk.ID) (n int64, err error) {
	err = s.do(ctx, 0, func(ctx context.Context) error {
		n, err = s.size(ctx, place.Hashed(place.Chunks, id))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("stat chunk %v: %w", id, err)
	}
	return n, nil
}

// GetObject implements [origin.Objects].
func (s *Store) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	b, err := s.readNamed(ctx, place.Hashed(place.Objects, d), d, min(max, origin.MaxObjectBytes))
	if err != nil {
		return nil, fmt.Errorf("get object %v: %w", d, err)
	}
	return b, nil
}

// readChecked reads what is at a place until check finds nothing wrong with it,
// and asks caches to look at it again if they have it damaged.
func (t *tree) readChecked(ctx context.Context, at string, most int64, header http.Header, check func([]byte) error) ([]byte, error) {
	return byterange.Checked(ctx, &t.policy, func(ctx context.Context, again bool) ([]byte, error) {
		if again {
			return t.read(ctx, at, most, always)
		}
		return t.read(ctx, at, most, header)
	}, check)
}

// readNamed reads what is named by d.
func (t *tree) readNamed(ctx context.Context, at string, d origin.Digest, most int64) ([]byte, error) {
	return t.readChecked(ctx, at, most, nil, d.Check)
}

// readCell returns the value of what changes in place.
func (t *tree) readCell(ctx context.Context, at string, most int64) (value []byte, err error) {
	_, err = t.readChecked(ctx, at, most, always, func(b []byte) (err error) {
		value, err = place.ParseCell(t.at+at, b)
		return err
	})
	return value, err
}

// ListAttachments implements [origin.Attachments], by the index.
func (s *Store) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func(data []byte) error) error {
	if err := origin.ValidKind(kind); err != nil {
		return err
	}
	folder := place.Attached(subject, kind) + "/"
	fail := func(err error) error { return fmt.Errorf("attachments %s of %v: %w", kind, subject, err) }
	index, err := s.readCell(ctx, folder+place.Index, place.MaxIndexBytes)
	if errors.Is(err, chunk.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fail(fmt.Errorf("index: %w", err))
	}
	list, err := place.ParseIndex(index)
	if err != nil {
		return fail(err)
	}
	for _, d := range list {
		data, err := s.readNamed(ctx, folder+hex.EncodeToString(d[:]), d, origin.MaxAttachmentBytes)
		if errors.Is(err, chunk.ErrNotFound) {
			continue // removed since
		}
		if err != nil {
			return fail(fmt.Errorf("%v: %w", d, err))
		}
		if err := fn(data); err != nil {
			return err
		}
	}
	return nil
}

// GetPointer implements [origin.Pointers].
func (t *tree) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if err := origin.ValidName(name); err != nil {
		return nil, err
	}
	value, err := t.readCell(ctx, place.Pointer(name), place.TombstoneBytes)
	if err == nil {
		value, err = place.PointerValue(value)
	}
	if err != nil {
		return nil, fmt.Errorf("get pointer %s: %w", name, err)
	}
	return value, nil
}

func refuse(op string, subject any, why error) error {
	return fmt.Errorf("%s %v: %w", op, subject, why)
}

// Put implements [chunk.Sink]: it fails with origin.ErrReadOnly.
func (s *Store) Put(_ context.Context, id chunk.ID, _ []byte) (bool, error) {
	return false, refuse("put chunk", id, origin.ErrReadOnly)
}

// Flush implements [chunk.Sink]: there is never anything to do.
func (s *Store) Flush(ctx context.Context) error { return ctx.Err() }

// Remove implements [chunk.Remover]: it fails with origin.ErrReadOnly.
func (s *Store) Remove(_ context.Context, id chunk.ID) error {
	return refuse("remove chunk", id, origin.ErrReadOnly)
}

// List implements [chunk.Lister]: it fails with origin.ErrNoListing.
func (s *Store) List(context.Context, func(id chunk.ID, size int64) error) error {
	return refuse("list", "chunks", origin.ErrNoListing)
}

// PutObject implements [origin.Objects]: it fails with origin.ErrReadOnly.
func (s *Store) PutObject(_ context.Context, data []byte) (origin.Digest, error) {
	return origin.Digest{}, refuse("put object of", fmt.Sprint(len(data), " bytes"), origin.ErrReadOnly)
}

// RemoveObject implements [origin.Objects]: it fails with origin.ErrReadOnly.
func (s *Store) RemoveObject(_ context.Context, d origin.Digest) error {
	return refuse("remove object", d, origin.ErrReadOnly)
}

// ListObjects implements [origin.Objects]: it fails with origin.ErrNoListing.
func (s *Store) ListObjects(context.Context, func(d origin.Digest, size int64) error) error {
	return refuse("list", "objects", origin.ErrNoListing)
}

// Attach implements [origin.Attachments]: it fails with origin.ErrReadOnly.
func (s *Store) Attach(_ context.Context, subject origin.Digest, _ string, _ []byte) error {
	return refuse("attach to", subject, origin.ErrReadOnly)
}

// SwapPointer implements [origin.Pointers]: it fails with origin.ErrReadOnly.
func (t *tree) SwapPointer(_ context.Context, name string, _, _ []byte) error {
	return refuse("swap pointer", name, origin.ErrReadOnly)
}

// ListPointers implements [origin.Pointers]: it fails with origin.ErrNoListing.
func (t *tree) ListPointers(_ context.Context, prefix string, _ func(name string) error) error {
	return refuse("list pointers", prefix, origin.ErrNoListing)
}

// ListGenerations implements [origin.Origin]: it fails with origin.ErrNoListing.
func (o *Origin) ListGenerations(context.Context, func(id origin.GenerationID) error) error {
	return refuse("list", "generations", origin.ErrNoListing)
}

// DeleteGeneration implements [origin.Origin]: it fails with origin.ErrReadOnly.
func (o *Origin) DeleteGeneration(_ context.Context, id origin.GenerationID, _ func(removed int)) error {
	return refuse("delete generation", id, origin.ErrReadOnly)
}

// CopyChunk implements [origin.Origin]: it fails with origin.ErrReadOnly.
func (o *Origin) CopyChunk(_ context.Context, id chunk.ID, _, _ origin.GenerationID) (bool, error) {
	return false, refuse("copy chunk", id, origin.ErrReadOnly)
}
