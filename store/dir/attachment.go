package dir

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// attachmentFolder returns where the attachments of a kind lie that subject has.
func (s *Store) attachmentFolder(subject origin.Digest, kind string) string {
	return filepath.Join(s.root, place.Attached(subject, kind))
}

// Attach implements [origin.Attachments].
func (s *Store) Attach(ctx context.Context, subject origin.Digest, kind string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := origin.CheckAttachment(kind, data)
	if err == nil {
		err = s.attach(ctx, s.attachmentFolder(subject, kind), data)
	}
	if err != nil {
		return fmt.Errorf("attach %s to %v: %w", kind, subject, err)
	}
	return nil
}

// attach writes data into folder, and then its name into the folder's index.
func (s *Store) attach(ctx context.Context, folder string, data []byte) error {
	d := origin.Sum(data)
	path := filepath.Join(folder, hex.EncodeToString(d[:]))
	if old, err := os.ReadFile(path); err == nil && origin.Sum(old) == d {
		err = s.sync(folder)
		if err != nil {
			return err
		}
	} else {
		if err := makeDir(folder); err != nil {
			return err
		}
		if err := s.writeFile(path, data); err != nil {
			return err
		}
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	path = filepath.Join(folder, place.Index)
	index, err := s.readCell(path, place.MaxIndexBytes)
	if errors.Is(err, origin.ErrCorrupt) {
		index, err = otherAttachments(ctx, folder, d)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	index, added, err := place.AddToIndex(index, d)
	if err != nil || !added {
		return err
	}
	return s.writeCell(path, index)
}

// otherAttachments returns an index of all attachments in folder but d.
func otherAttachments(ctx context.Context, folder string, d origin.Digest) ([]byte, error) {
	var list []origin.Digest
	err := listFolder(ctx, folder, func(id chunk.ID, _ int64) error {
		if origin.Digest(id) != d {
			list = append(list, origin.Digest(id))
		}
		if len(list) > origin.MaxAttachments {
			return fmt.Errorf("more than %d", origin.MaxAttachments)
		}
		return nil
	})
	return place.AppendIndex(nil, list), err
}

// ListAttachments implements [origin.Attachments]. A file whose bytes are not
// those of its name is an error that names it.
func (s *Store) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func(data []byte) error) error {
	if err := origin.ValidKind(kind); err != nil {
		return err
	}
	folder, n := s.attachmentFolder(subject, kind), 0
	err := listFolder(ctx, folder, func(id chunk.ID, size int64) error {
		if n++; n > origin.MaxAttachments {
			return fmt.Errorf("more than %d", origin.MaxAttachments)
		}
		if size > origin.MaxAttachmentBytes {
			return fmt.Errorf("%v has %d bytes, at most %d are allowed", id, size, origin.MaxAttachmentBytes)
		}
		data, err := os.ReadFile(filepath.Join(folder, id.String()))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if err := origin.Digest(id).Check(data); err != nil {
			return fmt.Errorf("%v: %w", id, err)
		}
		return fn(data)
	})
	if err != nil {
		return fmt.Errorf("attachments %s of %v: %w", kind, subject, err)
	}
	return nil
}
