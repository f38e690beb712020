package s3

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

func (s *Store) objectKey(d origin.Digest) string { return s.root + place.Hashed(place.Objects, d) }

// PutObject implements [origin.Objects].
func (s *Store) PutObject(ctx context.Context, data []byte) (origin.Digest, error) {
	if err := ctx.Err(); err != nil {
		return origin.Digest{}, err
	}
	if len(data) > origin.MaxObjectBytes {
		return origin.Digest{}, fmt.Errorf("put object: %d bytes, at most %d are allowed", len(data), origin.MaxObjectBytes)
	}
	u := newUpload("", data, cacheForever)
	d := origin.Digest(u.sum)
	u.key = s.objectKey(d)
	if _, err := s.store(ctx, u); err != nil {
		return origin.Digest{}, fmt.Errorf("put object %v: %w", d, err)
	}
	return d, nil
}

// GetObject implements [origin.Objects].
func (s *Store) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	b, err := s.readNamed(ctx, s.objectKey(d), d, min(max, origin.MaxObjectBytes))
	if err != nil {
		return nil, fmt.Errorf("get object %v: %w", d, err)
	}
	return b, nil
}

// readNamed reads what is named by d.
func (t *tree) readNamed(ctx context.Context, key string, d origin.Digest, most int64) ([]byte, error) {
	b, _, err := t.readChecked(ctx, key, most, d.Check)
	return b, err
}

// ListObjects implements [origin.Objects].
func (s *Store) ListObjects(ctx context.Context, fn func(d origin.Digest, size int64) error) error {
	return s.listHashed(ctx, place.Objects, func(id [32]byte, size int64) error { return fn(id, size) })
}

// RemoveObject implements [origin.Objects].
func (s *Store) RemoveObject(ctx context.Context, d origin.Digest) error {
	if err := s.removeKey(ctx, s.objectKey(d)); err != nil {
		return fmt.Errorf("remove object %v: %w", d, err)
	}
	return nil
}

// Attach implements [origin.Attachments].
func (s *Store) Attach(ctx context.Context, subject origin.Digest, kind string, data []byte) error {
	err := origin.CheckAttachment(kind, data)
	if err == nil {
		err = s.attach(ctx, s.root+place.Attached(subject, kind)+"/", data)
	}
	if err != nil {
		return fmt.Errorf("attach %s to %v: %w", kind, subject, err)
	}
	return nil
}

// attach puts data into folder, and then its name into the folder's index.
func (s *Store) attach(ctx context.Context, folder string, data []byte) error {
	u := newUpload("", data, cacheForever)
	u.key = folder + hex.EncodeToString(u.sum[:])
	if _, err := s.store(ctx, u); err != nil {
		return err
	}
	for n := 0; ; n++ {
		old, err := s.readCell(ctx, folder+place.Index, place.MaxIndexBytes)
		if errors.Is(err, origin.ErrCorrupt) {
			old.value, err = s.otherAttachments(ctx, folder, u.sum)
		}
		if err != nil {
			return err
		}
		index, added, err := place.AddToIndex(old.value, u.sum)
		if err != nil || !added {
			return err
		}
		err = s.writeCell(ctx, folder+place.Index, old, index)
		changed := errors.Is(err, origin.ErrConflict) || errors.Is(err, ErrUnknownOutcome)
		if !changed || n >= maxConflicts {
			return err
		}
		if err := sleep(ctx, n); err != nil {
			return err
		}
	}
}

// otherAttachments returns an index of all attachments in folder but d.
func (s *Store) otherAttachments(ctx context.Context, folder string, d origin.Digest) ([]byte, error) {
	var list []origin.Digest
	err := s.list(ctx, folder, func(page []entry) error {
		for _, o := range page {
			if id, ok := place.ParseHashed(o.key); ok && origin.Digest(id) != d {
				list = append(list, id)
			}
		}
		if len(list) > origin.MaxAttachments {
			return fmt.Errorf("more than %d", origin.MaxAttachments)
		}
		return nil
	})
	return place.AppendIndex(nil, list), err
}

// maxConflicts is how often an index is read again because somebody else has
// changed it: each time, somebody has got on.
const maxConflicts = 100

// sleep lets others go first that want to change the same.
func sleep(ctx context.Context, n int) error {
	timer := time.NewTimer(jitter(time.Duration(min(n+1, 20)) * 10 * time.Millisecond))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attachmentsAtOnce bounds the attachments that one listing has under way, and in
// memory, at one time.
const attachmentsAtOnce = 16

// ListAttachments implements [origin.Attachments].
func (s *Store) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func(data []byte) error) error {
	if err := origin.ValidKind(kind); err != nil {
		return err
	}
	n := 0
	err := s.list(ctx, s.root+place.Attached(subject, kind)+"/", func(page []entry) error {
		page = slices.DeleteFunc(page, func(o entry) bool {
			_, ok := place.ParseHashed(o.key)
			return !ok
		})
		if n += len(page); n > origin.MaxAttachments {
			return fmt.Errorf("more than %d", origin.MaxAttachments)
		}
		for some := range slices.Chunk(page, attachmentsAtOnce) {
			if err := s.readAttachments(ctx, some, fn); err != nil {
				return err
			}
		}
		return nil
	})
	return named(err, "attachments %s of %v", kind, subject)
}

// readAttachments reads what is listed, all at once, and calls fn for each.
func (s *Store) readAttachments(ctx context.Context, list []entry, fn func(data []byte) error) error {
	data, there := make([][]byte, len(list)), make([]bool, len(list)) // or removed meanwhile
	g, gctx := errgroup.WithContext(ctx)
	for i, o := range list {
		g.Go(func() error {
			id, _ := place.ParseHashed(o.key)
			b, err := s.readNamed(gctx, o.key, id, origin.MaxAttachmentBytes)
			if errors.Is(err, chunk.ErrNotFound) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%v: %w", chunk.ID(id), err)
			}
			data[i], there[i] = b, true
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, b := range data {
		if !there[i] {
			continue
		}
		if err := fn(b); err != nil {
			return callback{err}
		}
	}
	return nil
}
