package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

func (t *tree) pointerPath(name string) string { return t.root + "/" + place.Pointer(name) }

// GetPointer implements [origin.Pointers].
func (t *tree) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := origin.ValidName(name); err != nil {
		return nil, err
	}
	v, err := t.readPointer(name)
	if err != nil {
		return nil, failed("get pointer", name, err)
	}
	return v, nil
}

func (t *tree) readPointer(name string) ([]byte, error) {
	v, err := t.readCell(t.pointerPath(name), place.TombstoneBytes)
	if errors.Is(err, syscall.ENAMETOOLONG) {
		return nil, fmt.Errorf("the store's own path is too long for this name: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return place.PointerValue(v)
}

// SwapPointer implements [origin.Pointers].
func (t *tree) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if err := origin.ValidName(name); err != nil {
		return err
	}
	if len(new) > origin.MaxPointerBytes {
		return fmt.Errorf("swap pointer %s: value of %d bytes, at most %d are allowed", name, len(new), origin.MaxPointerBytes)
	}
	unlock, err := t.lock(ctx)
	if err != nil {
		return fmt.Errorf("swap pointer %s: %w", name, err)
	}
	defer unlock()
	present, err := t.readPointer(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, chunk.ErrNotFound):
		present, err = nil, nil
	case errors.Is(err, origin.ErrCorrupt) && origin.IsDamaged(old):
		present, err = old, nil
	case err != nil:
		return fmt.Errorf("swap pointer %s: %w", name, err)
	}
	if (present == nil) != (old == nil) || !bytes.Equal(present, old) {
		return fmt.Errorf("swap pointer %s: %w", name, origin.ErrConflict)
	}
	switch {
	case new != nil:
		err = t.writePointer(name, new)
	case present != nil:
		err = t.removePointer(name)
	}
	if err != nil {
		return fmt.Errorf("swap pointer %s: %w", name, err)
	}
	return nil
}

func (t *tree) writePointer(name string, value []byte) error {
	path := t.pointerPath(name)
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	return t.writeCell(path, value)
}

// removePointer removes the file and the directories that this empties. Nobody
// fills them meanwhile, for that takes the lock.
func (t *tree) removePointer(name string) error {
	path := t.pointerPath(name)
	if err := os.Remove(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	for dir != filepath.Join(t.root, place.Pointers) && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
	return t.sync(dir)
}

// lock keeps everybody else, goroutine or process, from changing pointers. A
// process that ends lets go. Between processes it asks again every now and
// then, so that ctx can end the waiting.
func (t *tree) lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-t.swaps:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f, err := os.OpenFile(filepath.Join(t.top, lockFile), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		t.swaps <- struct{}{}
		return nil, err
	}
	unlock = func() {
		_ = f.Close() // lets go of the lock too
		t.swaps <- struct{}{}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			unlock()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			unlock()
			return nil, ctx.Err()
		}
	}
}

// ListPointers implements [origin.Pointers].
func (t *tree) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	folder, ok := place.PrefixFolder(prefix)
	if !ok {
		return ctx.Err()
	}
	var names []string
	err := filepath.WalkDir(t.root+"/"+folder, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // there is none, or it was removed meanwhile
		}
		if err != nil || e.IsDir() {
			return err
		}
		if name, ok := place.ParsePointer(path[len(t.root)+1:]); ok && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list pointers %s: %w", prefix, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := fn(name); err != nil {
			return err
		}
	}
	return nil
}
