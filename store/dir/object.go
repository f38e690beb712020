package dir

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// PutObject implements [origin.Objects].
func (s *Store) PutObject(ctx context.Context, data []byte) (origin.Digest, error) {
	if err := ctx.Err(); err != nil {
		return origin.Digest{}, err
	}
	if len(data) > origin.MaxObjectBytes {
		return origin.Digest{}, fmt.Errorf("put object: %d bytes, at most %d are allowed", len(data), origin.MaxObjectBytes)
	}
	d := origin.Sum(data)
	_, _, err := s.put(place.Objects, &s.object, d, data)
	if err == nil {
		err = s.object.flush(ctx, s.root, place.Objects, s.sync)
	}
	if err != nil {
		return origin.Digest{}, fmt.Errorf("put object %v: %w", d, err)
	}
	return d, nil
}

// GetObject implements [origin.Objects].
func (s *Store) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, _ := s.place(place.Objects, d)
	f, err := os.Open(path)
	if err != nil {
		return nil, failed("get object", d, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, failed("get object", d, err)
	}
	if max = min(max, origin.MaxObjectBytes); info.Size() > max {
		return nil, fmt.Errorf("get object %v: %d bytes, at most %d are allowed", d, info.Size(), max)
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, failed("get object", d, err)
	}
	if err := d.Check(b); err != nil {
		return nil, fmt.Errorf("get object %v: %w", d, err)
	}
	return b, nil
}

// ListObjects implements [origin.Objects].
func (s *Store) ListObjects(ctx context.Context, fn func(d origin.Digest, size int64) error) error {
	return s.list(ctx, place.Objects, func(id chunk.ID, size int64) error { return fn(origin.Digest(id), size) })
}

// RemoveObject implements [origin.Objects].
func (s *Store) RemoveObject(ctx context.Context, d origin.Digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.remove(place.Objects, d); err != nil {
		return fmt.Errorf("remove object %v: %w", d, err)
	}
	return nil
}
