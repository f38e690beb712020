package overlay_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/overlay"
	"github.com/rivuletfs/rivulet/overlay/overlaytest"
)

func snapshot(t testing.TB, o *overlay.Overlay) *overlay.Snapshot {
	t.Helper()
	s, err := o.Snapshot()
	if err != nil {
		t.Fatalf("Snapshot: %v", err)
	}
	return s
}

// TestSnapshot runs the suite for devices over a snapshot whose overlay changes
// and is merged meanwhile.
func TestSnapshot(t *testing.T) {
	want := blockdevtest.Pattern(2<<20+512, 3)
	o := create(t, blockdevtest.NewMemory(bytes.Clone(want), func(page int64) bool { return page%3 == 0 }), overlay.Options{})
	p := blockdevtest.Pattern(900_000, 4)
	write(t, o, 300_001, p)
	copy(want[300_001:], p)
	if err := o.Discard(700_000, 100_000); err != nil {
		t.Fatal(err)
	}
	clear(want[700_000:800_000])
	s := snapshot(t, o)
	if err := o.Discard(0, o.Size()); err != nil {
		t.Fatal(err)
	}
	if err := snapshot(t, o).Close(); err != nil {
		t.Fatal(err)
	}
	write(t, o, 0, ones(1<<20))
	if err := o.Merge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := o.Stats().Layers; got < 2 {
		t.Errorf("%d layers: the snapshot's was merged", got)
	}
	blockdevtest.TestDevice(t, func(*testing.T) blockdev.Device { return s }, want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAt(make([]byte, 1), 0); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read of a closed snapshot: %v", err)
	}
	if err := o.Merge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := o.Stats().Layers; got != 1 {
		t.Errorf("%d layers after all was merged", got)
	}
	expect(t, o, 0, append(ones(1<<20), make([]byte, 1<<20+512)...))
}

// TestMoment checks that a snapshot is of one moment: of writes one after the other
// it has a first part. Four writers, snapshots and merges run at once.
func TestMoment(t *testing.T) {
	defer overlay.SetMergeBlocks(2)()
	o, _ := onMedium(t, 4<<20, overlay.Options{})
	const writers, places = 4, 5
	at := func(writer, place int) int64 { return int64(writer*places+place) * 40_960 }
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := uint64(1); ctx.Err() == nil; n++ {
				for place := range places {
					var b [700]byte
					binary.LittleEndian.PutUint64(b[:], n)
					if _, err := o.WriteAt(b[:], at(w, place)); err != nil {
						t.Errorf("WriteAt: %v", err)
						return
					}
				}
			}
		})
	}
	sum := func(s *overlay.Snapshot) [32]byte {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(s, 0, s.Size())); err != nil {
			t.Error(err)
		}
		return [32]byte(h.Sum(nil))
	}
	for range 25 {
		s := snapshot(t, o)
		before := sum(s)
		for w := range writers {
			var n [places]uint64
			for place := range places {
				var b [8]byte
				if _, err := s.ReadAt(b[:], at(w, place)); err != nil {
					t.Fatal(err)
				}
				n[place] = binary.LittleEndian.Uint64(b[:])
			}
			for place := 1; place < places; place++ {
				if n[place] > n[place-1] || n[place]+1 < n[0] {
					t.Fatalf("writer %d: a snapshot has %v", w, n)
				}
			}
		}
		if sum(s) != before {
			t.Fatal("a snapshot has changed")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := o.Merge(ctx, 2); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
}

// TestWriterBusy runs the suite while snapshots, merges and flushes run beside it.
func TestWriterBusy(t *testing.T) {
	defer overlay.SetMergeBlocks(5)()
	want := blockdevtest.Pattern(1<<20+512, 9)
	base := blockdevtest.NewMemory(bytes.Clone(want), nil)
	blockdevtest.TestWriter(t, func(t *testing.T) blockdev.Writer {
		o, err := overlay.Create("d", base, overlay.Options{FS: overlaytest.NewMedium()})
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				s, err := o.Snapshot()
				if err == nil {
					err = s.Close()
				}
				if err == nil {
					err = o.Merge(context.Background(), 3)
				}
				if err != nil {
					t.Errorf("beside the suite: %v", err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		t.Cleanup(func() {
			close(stop)
			wg.Wait()
			if err := o.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return o
	}, want)
}

// TestManyLayers fills the stack, and opens it again.
func TestManyLayers(t *testing.T) {
	const blocks = 200
	base := blockdevtest.NewMemory(make([]byte, blocks*4096), nil)
	m := overlaytest.NewMedium()
	o, err := overlay.Create("d", base, overlay.Options{FS: m})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, blocks*4096)
	for i := 0; ; i++ {
		p := bytes.Repeat([]byte{byte(i + 1)}, 4096)
		write(t, o, int64(i)*4096, p)
		copy(want[i*4096:], p)
		s, err := o.Snapshot()
		if errors.Is(err, overlay.ErrLayers) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, o) // a full stack is no failure
	if got := o.Stats().Layers; got != 64 {
		t.Errorf("%d layers", got)
	}
	m.Kill()
	if o, err = overlay.Open("d", base, overlay.Options{FS: m}); err != nil {
		t.Fatal(err)
	}
	expect(t, o, 0, want)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Merge(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Merge cancelled: %v", err)
	}
	if err := o.Merge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if s := o.Stats(); s.Layers != 1 || s.Allocated != 64*4096 || m.Taken("layer-") != s.Allocated {
		t.Errorf("after all is merged: %+v, files take %d", s, m.Taken("layer-"))
	}
	expect(t, o, 0, want)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestChanged compares what overlay and snapshot list with what was done.
func TestChanged(t *testing.T) {
	o, _ := onMedium(t, 64*4096+512, overlay.Options{})
	write(t, o, 4096, ones(100))
	write(t, o, 8192, ones(4096))
	if err := o.Discard(3*4096, 2*4096); err != nil {
		t.Fatal(err)
	}
	s := snapshot(t, o)
	write(t, o, 64*4096+1, ones(3))
	list := func(changed func(context.Context, func(int64, int64, bool) bool) error) (got [][3]int64) {
		err := changed(t.Context(), func(off, length int64, zero bool) bool {
			z := int64(0)
			if zero {
				z = 1
			}
			got = append(got, [3]int64{off, length, z})
			return true
		})
		if err != nil {
			t.Error(err)
		}
		return got
	}
	first := [][3]int64{{4096, 8192, 0}, {3 * 4096, 8192, 1}}
	for name, c := range map[string]struct{ got, want [][3]int64 }{
		"snapshot": {list(s.Changed), first},
		"overlay":  {list(o.Changed), append(first[:2:2], [3]int64{64 * 4096, 512, 0})},
	} {
		if len(c.got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
			continue
		}
		for i := range c.want {
			if c.got[i] != c.want[i] {
				t.Errorf("%s: %v, want %v", name, c.got, c.want)
			}
		}
	}
	calls := 0
	if err := o.Changed(t.Context(), func(int64, int64, bool) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("stopped at once: %d calls, %v", calls, err)
	}
}

// counting counts the reads of a device.
type counting struct {
	blockdev.Device
	reads atomic.Int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.reads.Add(1)
	return c.Device.ReadAt(p, off)
}

// TestOneReadOfBase has many writers of parts of one block: the base is read once.
func TestOneReadOfBase(t *testing.T) {
	base := &counting{Device: blockdevtest.NewMemory(bytes.Repeat([]byte{7}, 1<<20), nil)}
	o, err := overlay.Create("d", base, overlay.Options{FS: overlaytest.NewMedium()})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if _, err := o.WriteAt(ones(10), 4096+int64(i)*64+3); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := base.reads.Load(); got != 1 {
		t.Errorf("%d reads of the base", got)
	}
	want := bytes.Repeat([]byte{7}, 4096)
	for i := range 64 {
		copy(want[i*64+3:], ones(10))
	}
	expect(t, o, 4096, want)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNoAllocation checks the paths that every request takes.
func TestNoAllocation(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops buffers under the race detector")
	}
	o, err := overlay.Create(filepath.Join(t.TempDir(), "o"), blockdevtest.NewMemory(make([]byte, 64<<20), nil), overlay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := ones(4096)
	write(t, o, 0, ones(32<<20)) // all pages of the map are there
	flush(t, o)
	block := int64(0)
	for name, fn := range map[string]func() error{
		"rewrite":         func() error { _, err := o.WriteAt(p, block*4096); return err },
		"part of a block": func() error { _, err := o.WriteAt(p[:700], block*4096+100); return err },
		"read":            func() error { _, err := o.ReadAt(p, block*4096); return err },
		"read of a part":  func() error { _, err := o.ReadAt(p[:700], block*4096+100); return err },
		"discard":         func() error { return o.Discard(block*4096, 4096) },
	} {
		got := testing.AllocsPerRun(200, func() {
			block = (block + 7) % 8192
			if err := fn(); err != nil {
				t.Fatal(err)
			}
		})
		// The list of changes grows by doubling, and a pool may be emptied.
		if got > 0.5 {
			t.Errorf("%s: %.1f allocations", name, got)
		}
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
}
