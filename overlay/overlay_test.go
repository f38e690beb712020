package overlay_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/overlay"
	"github.com/rivuletfs/rivulet/overlay/overlaytest"
)

// create opens a new overlay, and closes it at the test's end. It lies in memory
// unless the options name a file system.
func create(t testing.TB, base blockdev.Device, opts overlay.Options) *overlay.Overlay {
	t.Helper()
	if opts.FS == nil {
		opts.FS = overlaytest.NewMedium()
	}
	o, err := overlay.Create(filepath.Join(t.TempDir(), "o"), base, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return o
}

// TestWriter runs the suite over bases and sizes that end anywhere.
func TestWriter(t *testing.T) {
	for _, c := range []struct {
		name       string
		base, size int
		fs         overlay.FS
	}{
		{"same", 3 << 20, 3 << 20, nil},
		{"files", 3<<20 + 512, 3<<20 + 512, overlay.OS},
		{"grown", 2<<20 + 1536, 3<<20 + 512, nil},
		{"empty base", 0, 1 << 20, nil},
	} {
		if testing.Short() && c.fs != nil {
			continue // syncs of a slow disk
		}
		t.Run(c.name, func(t *testing.T) {
			want := append(blockdevtest.Pattern(c.base, 1), make([]byte, c.size-c.base)...)
			base := blockdevtest.NewMemory(want[:c.base], func(page int64) bool { return page%7 < 3 })
			written := blockdevtest.Pattern((c.size-c.base)/2, 2)
			copy(want[c.base:], written)
			blockdevtest.TestWriter(t, func(t *testing.T) blockdev.Writer {
				o := create(t, base, overlay.Options{Size: int64(c.size), FS: c.fs})
				if _, err := o.WriteAt(written, int64(c.base)); err != nil {
					t.Fatal(err)
				}
				return o
			}, want)
		})
	}
}

// TestStack runs the suite over what lies in some layers already.
func TestStack(t *testing.T) {
	want := blockdevtest.Pattern(3<<20+512, 3)
	base := blockdevtest.NewMemory(bytes.Clone(want), nil)
	changed := func(t *testing.T, o *overlay.Overlay, want []byte) {
		for layer := range 5 {
			p := blockdevtest.Pattern(700_001, uint64(layer)+10)
			off := 500_000 * layer
			if _, err := o.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
			copy(want[off:], p)
			if err := o.Discard(int64(off+123_456), 99_999); err != nil {
				t.Fatal(err)
			}
			clear(want[off+123_456:][:99_999])
			if _, err := o.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
	blockdevtest.TestWriter(t, func(t *testing.T) blockdev.Writer {
		o := create(t, base, overlay.Options{})
		changed(t, o, bytes.Clone(want))
		return o
	}, func() []byte {
		w := bytes.Clone(want)
		changed(t, create(t, base, overlay.Options{}), w)
		return w
	}())
}
