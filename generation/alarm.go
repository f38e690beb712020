package generation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

const alarmPrefix = "alarms/"

// An Alarm says that something was needed which the collector took for done
// with. It is kept at the origin, and while there is one, nothing is deleted. A
// person looks at it, and clears it.
type Alarm struct {
	Name       string              `json:"-"` // of its pointer, below "alarms/"
	Time       time.Time           `json:"time"`
	Who        string              `json:"who"` // host and process
	Generation origin.GenerationID `json:"generation"`
	Image      string              `json:"image"`  // digest of the block map
	Reason     string              `json:"reason"` // what was seen
}

// Reasons of alarms.
const (
	ReasonExpired = "an expired generation was read"
	ReasonMissing = "a chunk of the image is missing"
	ReasonGone    = "no generation that can be read has the image"
	ReasonWanted  = "an image that is wanted was only in a generation to be deleted"
)

// Raise keeps an alarm at the origin. One for this image and generation that is
// there already is left as it is, so there is one, however many notice.
func Raise(ctx context.Context, o origin.Pointers, a Alarm) error {
	value, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("raise alarm: %w", err)
	}
	err = o.SwapPointer(ctx, alarmPrefix+a.key(), nil, append(value, '\n'))
	if err != nil && !errors.Is(err, origin.ErrConflict) {
		return fmt.Errorf("raise alarm: %w", err)
	}
	return nil
}

func (a *Alarm) key() string {
	image := a.Image
	if d, err := origin.ParseDigest(image); err == nil {
		image = chunk.ID(d).String()
	}
	return a.Generation.String() + "/" + image
}

// Alarms returns the alarms that were raised and not cleared. One that cannot be
// understood is an alarm too, of which only the name is known.
func Alarms(ctx context.Context, o origin.Pointers) ([]Alarm, error) {
	var list []Alarm
	err := o.ListPointers(ctx, alarmPrefix, func(name string) error {
		value, err := o.GetPointer(ctx, name)
		if errors.Is(err, chunk.ErrNotFound) {
			return nil // cleared meanwhile
		}
		if err != nil && !errors.Is(err, origin.ErrCorrupt) {
			return err
		}
		var a Alarm
		if json.Unmarshal(value, &a) != nil {
			a = Alarm{Reason: "unreadable"}
		}
		a.Name = name[len(alarmPrefix):]
		list = append(list, a)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("alarms: %w", err)
	}
	return list, nil
}

// Clear takes an alarm away; one that is not there is chunk.ErrNotFound.
func Clear(ctx context.Context, o origin.Pointers, name string) error {
	return remove(ctx, o, alarmPrefix+name)
}

// remove removes a pointer, whatever its value.
func remove(ctx context.Context, o origin.Pointers, name string) error {
	for {
		old, err := o.GetPointer(ctx, name)
		if err != nil {
			return err
		}
		err = o.SwapPointer(ctx, name, old, nil)
		if !errors.Is(err, origin.ErrConflict) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
