package generation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// What keeps an image that has no name: pins and marks. They are pointers of the
// origin, so they need not be carried from generation to generation.
const (
	pinPrefix  = "pins/"
	markPrefix = "marks/"
)

// A Pin keeps an image until somebody takes the pin away.
type Pin struct {
	Image origin.Digest `json:"-"` // the block map
	Time  time.Time     `json:"time"`
	Who   string        `json:"who"`
	Ref   string        `json:"ref"` // what the image was called by
}

func claimKey(prefix string, d origin.Digest) string { return prefix + chunk.ID(d).String() }

// putPin writes a pin unless there is one for the image.
func putPin(ctx context.Context, o origin.Pointers, p Pin) error {
	value, err := json.Marshal(p)
	if err != nil {
		return err
	}
	err = o.SwapPointer(ctx, claimKey(pinPrefix, p.Image), nil, append(value, '\n'))
	if errors.Is(err, origin.ErrConflict) {
		return nil
	}
	return err
}

// Unpin takes the pin of an image away; one that is not there is
// chunk.ErrNotFound.
func Unpin(ctx context.Context, o origin.Pointers, image origin.Digest) error {
	if err := remove(ctx, o, claimKey(pinPrefix, image)); err != nil {
		return fmt.Errorf("unpin %v: %w", image, err)
	}
	return nil
}

// Pins returns all pins. A pin that cannot be understood is one all the same.
func Pins(ctx context.Context, o origin.Pointers) ([]Pin, error) {
	var list []Pin
	err := claims(ctx, o, pinPrefix, func(d origin.Digest, value []byte) error {
		var p Pin
		_ = json.Unmarshal(value, &p)
		p.Image = d
		list = append(list, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pins: %w", err)
	}
	return list, nil
}

// claims calls fn for each pointer with that prefix whose name is a digest.
func claims(ctx context.Context, o origin.Pointers, prefix string, fn func(d origin.Digest, value []byte) error) error {
	return o.ListPointers(ctx, prefix, func(name string) error {
		id, err := chunk.ParseID(strings.TrimPrefix(name, prefix))
		if err != nil {
			return nil // nobody of ours wrote it
		}
		value, err := o.GetPointer(ctx, name)
		if errors.Is(err, chunk.ErrNotFound) {
			return nil // taken away meanwhile
		}
		if err != nil && !errors.Is(err, origin.ErrCorrupt) { // what its name says counts
			return err
		}
		return fn(origin.Digest(id), value)
	})
}

// day is the value of a mark.
func day(t time.Time) string { return t.UTC().Format(time.DateOnly) + "\n" }

// Mark says that an image is in use, today. It writes at most once a day,
// however many readers there are.
func Mark(ctx context.Context, o origin.Pointers, image origin.Digest, now time.Time) error {
	name, value := claimKey(markPrefix, image), day(now)
	for {
		old, err := o.GetPointer(ctx, name)
		if errors.Is(err, origin.ErrCorrupt) {
			return nil // it counts as one of today, see Marks
		}
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return fmt.Errorf("mark %v: %w", image, err)
		}
		if string(old) >= value { // days sort as they follow one another
			return nil
		}
		err = o.SwapPointer(ctx, name, old, []byte(value))
		if err == nil {
			return nil
		}
		if !errors.Is(err, origin.ErrConflict) {
			return fmt.Errorf("mark %v: %w", image, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// Marks calls fn for each image that was marked, with the day (its midnight,
// UTC); a mark that cannot be understood counts as one of now.
func Marks(ctx context.Context, o origin.Pointers, now time.Time, fn func(image origin.Digest, day time.Time) error) error {
	err := claims(ctx, o, markPrefix, func(d origin.Digest, value []byte) error {
		t, err := time.Parse(time.DateOnly, strings.TrimSuffix(string(value), "\n"))
		if err != nil {
			t = now
		}
		return fn(d, t)
	})
	if err != nil {
		return fmt.Errorf("marks: %w", err)
	}
	return nil
}

// Unmark takes the mark of an image away if it is still of the given day.
func Unmark(ctx context.Context, o origin.Pointers, image origin.Digest, of time.Time) error {
	err := o.SwapPointer(ctx, claimKey(markPrefix, image), []byte(day(of)), nil)
	if err != nil && !errors.Is(err, origin.ErrConflict) {
		return fmt.Errorf("unmark %v: %w", image, err)
	}
	return nil
}
