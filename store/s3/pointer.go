package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
)

// ErrUnknownOutcome is returned (wrapped) when a pointer may have been changed
// and changed back by others before that could be seen: answers were lost on
// the way.
var ErrUnknownOutcome = errors.New("the answer was lost, and others have changed it since: whether this change took place is not known")

// A cell is a small object that is replaced by compare-and-swap.
//
// Not every server can delete on a condition. So a cell is removed by putting a
// tombstone in its place, which counts as absent; see Origin.sweep.
type cell struct {
	value   []byte    // nil: absent
	etag    string    // "": no object, not even a tombstone
	writer  string    // of whoever put it
	changed time.Time // as the server says; zero if it does not
}

// readCell reads a cell that has at most most bytes as it is stored. Of one
// whose bytes prove wrong it returns origin.ErrCorrupt and all but the value.
func (t *tree) readCell(ctx context.Context, key string, most int64) (cell, error) {
	var value []byte
	_, header, err := t.readChecked(ctx, key, most, func(b []byte) (err error) {
		value, err = place.ParseCell(t.placeOf(key), b)
		return err
	})
	if errors.Is(err, chunk.ErrNotFound) {
		return cell{}, nil
	}
	if err != nil && !errors.Is(err, origin.ErrCorrupt) {
		return cell{}, err
	}
	if place.IsTombstone(value) {
		value = nil
	}
	changed, _ := http.ParseTime(header.Get("Last-Modified"))
	return cell{value, strings.Trim(header.Get("ETag"), `"`), header.Get(writerHeader), changed}, err
}

// writeCell replaces old, as it was read, by value; nil removes it. It returns
// ErrConflict if somebody else has changed the cell since.
func (t *tree) writeCell(ctx context.Context, key string, old cell, value []byte) error {
	f, err := t.abilities(ctx)
	if err != nil {
		return err
	}
	if value == nil {
		value = place.Tombstone()
	}
	u := newUpload(key, place.AppendCell(nil, t.placeOf(key), value), cacheNever)
	u.checksum, u.writer = f.checksum, rand.Text()
	when := condition{absent: old.etag == "", etag: old.etag}
	if !f.swap || !f.putIfAbsent {
		if t.config.Strict {
			return fmt.Errorf("%s has no conditional writes, and strict=true is set: use another server, or let one process at a time change names", t.endpoint())
		}
		when = condition{}
	}
	sent := 0
	err = t.do(ctx, int64(len(u.data)), func(ctx context.Context) error {
		n, err := t.put(ctx, u, when)
		sent += n
		return err
	})
	if !errors.Is(err, errCondition) {
		return err
	}
	if sent <= 1 {
		return origin.ErrConflict
	}
	// An earlier attempt may have been the change that is in the way.
	now, err := t.readCell(ctx, key, place.MaxIndexBytes)
	switch {
	case err != nil:
		return err
	case now.writer == u.writer:
		return nil
	}
	return ErrUnknownOutcome
}

// GetPointer implements [origin.Pointers].
func (t *tree) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if err := origin.ValidName(name); err != nil {
		return nil, err
	}
	c, err := t.readPointer(ctx, name)
	if err == nil && c.value == nil {
		err = chunk.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("get pointer %s: %w", name, err)
	}
	return c.value, nil
}

func (t *tree) readPointer(ctx context.Context, name string) (cell, error) {
	c, err := t.readCell(ctx, t.root+place.Pointer(name), place.TombstoneBytes)
	if err == nil && c.value != nil {
		_, err = place.PointerValue(c.value)
	}
	return c, err
}

// SwapPointer implements [origin.Pointers].
func (t *tree) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if err := origin.ValidName(name); err != nil {
		return err
	}
	if len(new) > origin.MaxPointerBytes {
		return fmt.Errorf("swap pointer %s: value of %d bytes, at most %d are allowed", name, len(new), origin.MaxPointerBytes)
	}
	if err := t.swap(ctx, name, old, new); err != nil {
		return fmt.Errorf("swap pointer %s: %w", name, err)
	}
	return nil
}

func (t *tree) swap(ctx context.Context, name string, old, new []byte) error {
	for n := 0; ; n++ {
		now, err := t.readPointer(ctx, name)
		switch {
		case errors.Is(err, origin.ErrCorrupt) && origin.IsDamaged(old): // it has its ETag all the same
		case err != nil:
			return err
		case (now.value == nil) != (old == nil) || !bytes.Equal(now.value, old):
			return origin.ErrConflict
		case old == nil && new == nil:
			return nil
		}
		err = t.writeCell(ctx, t.root+place.Pointer(name), now, new)
		if !errors.Is(err, origin.ErrConflict) || n == maxSwept {
			return err
		}
		// Maybe only a tombstone was swept away, and the value is the same.
	}
}

// maxSwept is how often a pointer is looked at again that seems to have changed.
const maxSwept = 3

// ListPointers implements [origin.Pointers].
func (t *tree) ListPointers(ctx context.Context, prefix string, fn func(name string) error) error {
	folder, ok := place.PrefixFolder(prefix)
	if !ok {
		return ctx.Err()
	}
	var names []string
	err := t.list(ctx, t.root+folder+"/", func(page []entry) error {
		for _, o := range page {
			name, ok := place.ParsePointer(o.key[len(t.root):])
			if ok && strings.HasPrefix(name, prefix) && o.size != place.TombstoneBytes {
				names = append(names, name)
			}
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

// jitter returns between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + mathrand.N(d/2+1) }
