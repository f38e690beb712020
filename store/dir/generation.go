package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// ListGenerations implements [origin.Origin].
func (o *Origin) ListGenerations(ctx context.Context, fn func(id origin.GenerationID) error) error {
	list, err := os.ReadDir(filepath.Join(o.top, place.Generations))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list generations: %w", err)
	}
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, err := origin.ParseGenerationID(e.Name())
		if err != nil {
			continue
		}
		if err := fn(id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// DeleteGeneration implements [origin.Origin]. The generation is gone at once;
// giving its space back takes longer, and what is left of it by a process that
// is killed, the next one to open the origin for writing removes.
func (o *Origin) DeleteGeneration(ctx context.Context, id origin.GenerationID, tell func(removed int)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := o.delete(ctx, o.generation(id).root, tell); err != nil {
		return fmt.Errorf("delete generation %v: %w", id, err)
	}
	o.stores.Delete(id)
	return nil
}

func (o *Origin) delete(ctx context.Context, root string, tell func(removed int)) error {
	gone, err := os.MkdirTemp(filepath.Join(o.top, tempDir), "gone-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(gone) }()
	target := filepath.Join(gone, filepath.Base(root))
	err = os.Rename(root, target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = o.sync(filepath.Dir(root))
	}
	if err != nil {
		return err
	}
	n := 0
	return filepath.WalkDir(target, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || e.IsDir() {
			return err
		}
		n++
		tell(n)
		return os.Remove(path)
	})
}

// CopyChunk implements [origin.Origin]: both generations have the same file.
func (o *Origin) CopyChunk(ctx context.Context, id chunk.ID, from, to origin.GenerationID) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	src, dst := o.generation(from), o.generation(to)
	added, late, err := dst.link(id, src)
	if err == nil && late {
		err = dst.Flush(ctx)
	}
	if err != nil {
		return false, failed("copy chunk", id, err)
	}
	return added, nil
}

// link makes chunk id of src one of s too.
func (s *Store) link(id chunk.ID, src *Store) (added, late bool, err error) {
	old, _ := src.place(place.Chunks, id)
	path, dir := s.place(place.Chunks, id)
	have, err := os.Lstat(path)
	want, srcErr := os.Lstat(old)
	switch {
	case srcErr != nil:
		return false, false, srcErr
	case err == nil && have.Size() == want.Size():
		return false, s.chunks.settle(id, have), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, false, err
	}
	if err := s.chunks.make(id, dir); err != nil {
		return false, false, err
	}
	temp, err := linkTemporary(old, filepath.Join(s.top, tempDir))
	if err != nil {
		return false, false, err
	}
	if err := os.Rename(temp, path); err != nil {
		return false, false, errors.Join(err, os.Remove(temp))
	}
	return true, s.chunks.entered(id), removeLink(temp)
}

// linkTemporary gives a file a second, unused name in dir.
func linkTemporary(path, dir string) (string, error) {
	for {
		name := temporaryName(dir)
		err := os.Link(path, name)
		if !errors.Is(err, fs.ErrExist) {
			return name, err
		}
	}
}

// removeLink removes a name that is left when rename found both of its names to
// be one file, and did nothing (POSIX).
func removeLink(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
