package blockdev_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
)

// readerFunc is an io.ReaderAt.
type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestFlat(t *testing.T) {
	want := blockdevtest.Pattern(300<<10, 1)
	long := append(bytes.Clone(want), "behind the device"...)
	blockdevtest.TestDevice(t, func(*testing.T) blockdev.Device {
		return blockdev.NewFlat(bytes.NewReader(long), int64(len(want)))
	}, want)
}

// TestFlatReaders has readers that do what io.ReaderAt allows, and what a
// device must not show.
func TestFlatReaders(t *testing.T) {
	errMedium := errors.New("medium error")
	const size = 4096
	for _, c := range []struct {
		name   string
		reader readerFunc
		p      int
		off    int64
		n      int
		err    error
	}{
		{"all, with EOF", func(p []byte, _ int64) (int, error) { return len(p), io.EOF }, size, 0, size, nil},
		{"all, and over the end", func(p []byte, _ int64) (int, error) { return len(p), nil }, size, 1024, size - 1024, io.EOF},
		{"file ends early", func([]byte, int64) (int, error) { return 100, io.EOF }, size, 0, 100, io.ErrUnexpectedEOF},
		{"file ends early, over the end", func([]byte, int64) (int, error) { return 100, io.EOF }, 2 * size, 0, 100, io.ErrUnexpectedEOF},
		{"short without an error", func([]byte, int64) (int, error) { return 100, nil }, size, 0, 100, io.ErrUnexpectedEOF},
		{"fails half-way", func([]byte, int64) (int, error) { return 100, errMedium }, size, 0, 100, errMedium},
		{"past the end, unasked", nil, 1, size, 0, io.EOF},
		{"far past the end, unasked", nil, 1, 1<<63 - 1, 0, io.EOF},
	} {
		n, err := blockdev.NewFlat(c.reader, size).ReadAt(make([]byte, c.p), c.off)
		if n != c.n || !errors.Is(err, c.err) {
			t.Errorf("%s: %d, %v; want %d, %v", c.name, n, err, c.n, c.err)
		}
	}
	if n, err := blockdev.NewFlat(nil, size).ReadAt(make([]byte, 1), -1); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("negative offset: %d, %v", n, err)
	}
}

// able is a device with both abilities, which notes what it is asked.
type able struct {
	blockdev.Device
	asked [][2]int64
	err   error
}

func (a *able) Extents(_ context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	a.asked = append(a.asked, [2]int64{off, length})
	fn(blockdev.Extent{Offset: off, Length: length, Hole: true})
	return a.err
}

func (a *able) Prefetch(_ context.Context, off, length int64) error {
	a.asked = append(a.asked, [2]int64{off, length})
	return a.err
}

// TestAbilities checks that a device that can is asked, with its error
// returned, and that one that cannot is data, local and complete.
func TestAbilities(t *testing.T) {
	flat := blockdev.NewFlat(bytes.NewReader(make([]byte, 4096)), 4096)
	a := &able{Device: flat, err: errors.New("no")}
	var got []blockdev.Extent
	list := func(e blockdev.Extent) bool { got = append(got, e); return true }
	if err := blockdev.Extents(t.Context(), a, 1, 2, list); !errors.Is(err, a.err) || len(got) != 1 || !got[0].Hole {
		t.Errorf("Extents of one that can: %+v, %v", got, err)
	}
	if err := blockdev.Prefetch(t.Context(), a, 3, 4); !errors.Is(err, a.err) {
		t.Errorf("Prefetch of one that can: %v", err)
	}
	if len(a.asked) != 2 || a.asked[0] != [2]int64{1, 2} || a.asked[1] != [2]int64{3, 4} {
		t.Errorf("asked %v", a.asked)
	}
	got = nil
	if err := blockdev.Extents(t.Context(), flat, 512, 1024, list); err != nil || len(got) != 1 ||
		got[0] != (blockdev.Extent{Offset: 512, Length: 1024, Local: true}) {
		t.Errorf("Extents of one that cannot: %+v, %v", got, err)
	}
	if err := blockdev.Prefetch(t.Context(), flat, 0, 4096); err != nil {
		t.Errorf("Prefetch of one that cannot: %v", err)
	}
}
