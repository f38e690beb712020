package overlay_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/overlay"
	"github.com/rivuletfs/rivulet/overlay/overlaytest"
)

// TestRecentFull makes more changes than the file of recent ones has records for,
// one by one and many in a call, and kills. All of them must be there.
func TestRecentFull(t *testing.T) {
	defer overlay.SetRecentRecords(16)()
	const size = 1 << 20
	base := blockdevtest.NewMemory(blockdevtest.Pattern(size, 1), nil)
	m := overlaytest.NewMedium()
	o, err := overlay.Create("d", base, overlay.Options{FS: m})
	if err != nil {
		t.Fatal(err)
	}
	want := blockdevtest.Pattern(size, 1)
	for range 3 {
		for off := int64(0); off < size; off += 8192 {
			write(t, o, off, ones(4096))
			copy(want[off:], ones(4096))
		}
		m.Kill()
		if o, err = overlay.Open("d", base, overlay.Options{FS: m}); err != nil {
			t.Fatal(err)
		}
		expect(t, o, 0, want)
		// What is data on top and what the base's alternate: a change each.
		if err := o.Discard(4096, size/2); err != nil {
			t.Fatal(err)
		}
		clear(want[4096 : 4096+size/2])
		m.Kill()
		if o, err = overlay.Open("d", base, overlay.Options{FS: m}); err != nil {
			t.Fatal(err)
		}
		expect(t, o, 0, want)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// TestRecentOfAnotherState puts files of recent changes into the folder that do not
// belong to the index: they count for nothing, and what is damaged is told.
func TestRecentOfAnotherState(t *testing.T) {
	const size = 1 << 20
	base := blockdevtest.NewMemory(make([]byte, size), nil)
	m := overlaytest.NewMedium()
	opts := overlay.Options{FS: m}
	o, err := overlay.Create("d", base, opts)
	if err != nil {
		t.Fatal(err)
	}
	reopen := func() error {
		m.Kill()
		var err error
		o, err = overlay.Open("d", base, opts)
		return err
	}
	write(t, o, 0, ones(8192))
	earlier := m.Bytes("d/recent")
	flush(t, o)
	if err := reopen(); err != nil {
		t.Fatal(err)
	}
	if err := o.Discard(0, 4096); err != nil {
		t.Fatal(err)
	}
	write(t, o, 40960, ones(4096))
	write(t, o, 81920, ones(4096))
	now := m.Bytes("d/recent")

	// One of the records that are needed, but for the last, which a kill may have torn.
	used := bytes.LastIndexFunc(now, func(r rune) bool { return r != 0 }) + 1
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		bad := bytes.Clone(now)
		bad[used-3*32+r.IntN(2*32)] ^= 1 << r.IntN(8)
		m.Replace("d/recent", bad)
		if err := reopen(); !errors.Is(err, overlay.ErrCorrupt) {
			t.Errorf("a damaged record: %v", err)
		}
	}
	m.Replace("d/recent", now)
	if err := reopen(); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	for _, off := range []int{4096, 40960, 81920} {
		copy(want[off:], ones(4096))
	}
	expect(t, o, 0, want)
	for name, b := range map[string][]byte{
		"an earlier one": earlier, "none": nil, "zeros": make([]byte, len(now)), "cut short": now[:len(now)-32], "a head": now[:40],
	} {
		m.Replace("d/recent", b)
		if err := reopen(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		expect(t, o, 0, want)
	}
	write(t, o, 0, ones(4096))
	copy(want, ones(4096))
	if err := reopen(); err != nil {
		t.Fatal(err)
	}
	expect(t, o, 0, want)
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// A renamingFS calls a function in the place of Rename, with what renames.
type renamingFS struct {
	*overlaytest.Medium
	renaming func(rename func() error) error
}

func (f *renamingFS) Rename(from, to string) error {
	return f.renaming(func() error { return f.Medium.Rename(from, to) })
}

// TestKillInSnapshot writes to the new layer before an index names it, and kills
// before and after one does.
func TestKillInSnapshot(t *testing.T) {
	const size = 1 << 20
	base := blockdevtest.NewMemory(make([]byte, size), nil)
	for _, renames := range []bool{false, true} {
		m := &renamingFS{overlaytest.NewMedium(), func(rename func() error) error { return rename() }}
		o, err := overlay.Create("d", base, overlay.Options{FS: m})
		if err != nil {
			t.Fatal(err)
		}
		write(t, o, 0, ones(8192))
		if err := o.Discard(4096, 4096); err != nil {
			t.Fatal(err)
		}
		m.renaming = func(rename func() error) error {
			write(t, o, 4096, ones(512))
			write(t, o, 40960, ones(4096))
			if err := o.Discard(0, 4096); err != nil {
				t.Error(err)
			}
			if renames {
				if err := rename(); err != nil {
					t.Error(err)
				}
			}
			m.Kill()
			return overlaytest.ErrPower
		}
		if _, err := o.Snapshot(); !errors.Is(err, overlaytest.ErrPower) {
			t.Fatalf("Snapshot: %v", err)
		}
		if o, err = overlay.Open("d", base, overlay.Options{FS: m.Medium}); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size)
		copy(want[4096:], ones(512))
		copy(want[40960:], ones(4096))
		expect(t, o, 0, want)
		if s := o.Stats(); s.Layers != 2 || s.Allocated != m.Taken("layer-") {
			t.Errorf("%d layers, %d bytes counted, %d taken", s.Layers, s.Allocated, m.Taken("layer-"))
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
}
