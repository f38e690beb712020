package overlay_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/overlay"
	"github.com/rivuletfs/rivulet/overlay/overlaytest"
)

// onMedium opens a new overlay of some size over zeros, in memory.
func onMedium(t testing.TB, size int64, opts overlay.Options) (*overlay.Overlay, *overlaytest.Medium) {
	t.Helper()
	m := overlaytest.NewMedium()
	opts.FS = m
	base := blockdevtest.NewMemory(make([]byte, size), nil)
	o, err := overlay.Create("d", base, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close() })
	return o, m
}

func write(t testing.TB, d blockdev.Writer, off int64, p []byte) {
	t.Helper()
	if n, err := d.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
	}
}

func expect(t testing.TB, d blockdev.Device, off int64, want []byte) {
	t.Helper()
	p := make([]byte, len(want))
	if _, err := d.ReadAt(p, off); err != nil {
		t.Fatalf("ReadAt(%d bytes, %d): %v", len(p), off, err)
	}
	if !bytes.Equal(p, want) {
		t.Errorf("%d bytes at %d read %x..., want %x...", len(p), off, p[:8], want[:8])
	}
}

func flush(t testing.TB, o *overlay.Overlay) {
	t.Helper()
	if err := o.Flush(); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

func ones(n int) []byte { return bytes.Repeat([]byte{1}, n) }

// TestQuota fills an overlay, makes room by discarding, and fills it again.
func TestQuota(t *testing.T) {
	const quota = 100 * 4096
	o, m := onMedium(t, 1<<20, overlay.Options{Quota: quota})
	write(t, o, 0, ones(quota))
	if n, err := o.WriteAt(ones(512), quota); n != 0 || !errors.Is(err, overlay.ErrQuota) || !errors.Is(err, blockdev.ErrNoSpace) {
		t.Errorf("write beyond the quota = %d, %v", n, err)
	}
	expect(t, o, quota, make([]byte, 512))
	write(t, o, 100, ones(quota-200)) // takes nothing new
	if err := o.Discard(0, 10*4096); err != nil {
		t.Fatal(err)
	}
	if err := o.Discard(4096, 4096); err != nil { // counts once
		t.Fatal(err)
	}
	write(t, o, 200*4096, ones(10*4096)) // flushes, so that there is room
	if _, err := o.WriteAt(ones(1), 250*4096); !errors.Is(err, overlay.ErrQuota) {
		t.Errorf("write beyond the quota after a discard: %v", err)
	}
	if s := o.Stats(); s.Allocated != quota || s.Quota != quota {
		t.Errorf("stats: %d of %d allocated", s.Allocated, s.Quota)
	}
	if got := m.Taken("layer-"); got != quota {
		t.Errorf("files take %d bytes, quota is %d", got, quota)
	}
	expect(t, o, 0, make([]byte, 10*4096))
	expect(t, o, 200*4096, ones(10*4096))
}

// TestDiscardGivesBack checks that space is given back, by the file system's own
// count, and also by an overlay that was opened again.
func TestDiscardGivesBack(t *testing.T) {
	o, m := onMedium(t, 8<<20, overlay.Options{})
	write(t, o, 0, ones(5<<20))
	flush(t, o)
	if err := o.Discard(4096, 5<<20-8192); err != nil {
		t.Fatal(err)
	}
	if got := m.Taken("layer-"); got != 5<<20 {
		t.Errorf("before the flush files take %d bytes: a crash would lose flushed data", got)
	}
	flush(t, o)
	if got, counted := m.Taken("layer-"), o.Stats().Allocated; got != 8192 || counted != got {
		t.Errorf("files take %d bytes, counted %d, want 8192", got, counted)
	}
	if err := o.WriteZeroes(0, 8<<20); err != nil {
		t.Fatal(err)
	}
	flush(t, o)
	if got := m.Taken("layer-"); got != 0 {
		t.Errorf("files take %d bytes when all is zero", got)
	}
}

// TestUnflushedSpace checks that blocks that a crash left unnamed are given back.
func TestUnflushedSpace(t *testing.T) {
	o, m := onMedium(t, 1<<20, overlay.Options{})
	write(t, o, 0, ones(8192))
	flush(t, o)
	write(t, o, 0, ones(300_000))
	m.Crash(rand.New(rand.NewPCG(1, 1)))
	o, err := overlay.Open("d", blockdevtest.NewMemory(make([]byte, 1<<20), nil), overlay.Options{FS: m})
	if err != nil {
		t.Fatal(err)
	}
	if got, counted := m.Taken("layer-"), o.Stats().Allocated; got != 8192 || counted != got {
		t.Errorf("files take %d bytes, counted %d, want 8192", got, counted)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// TestFull has a file system that runs full: writes fail, what was there stays,
// and there is room again after a discard.
func TestFull(t *testing.T) {
	o, m := onMedium(t, 8<<20, overlay.Options{})
	m.Limit(m.Taken("") + 1<<20)
	var failed int64 = -1
	for off := int64(0); off < 4<<20; off += 64 << 10 {
		if _, err := o.WriteAt(ones(64<<10), off); err != nil {
			if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, blockdev.ErrNoSpace) {
				t.Fatal(err)
			}
			failed = off
			break
		}
	}
	if failed < 512<<10 {
		t.Fatalf("first write that failed: at %d", failed)
	}
	expect(t, o, 0, ones(int(failed)))
	expect(t, o, failed, make([]byte, 64<<10))
	flush(t, o)
	if err := o.Discard(0, 512<<10); err != nil {
		t.Fatal(err)
	}
	flush(t, o)
	write(t, o, failed, ones(256<<10))
	flush(t, o)
}

// TestFailingMedium checks that a flush that failed is never followed by one that
// succeeds, nor by a write.
func TestFailingMedium(t *testing.T) {
	for _, op := range []string{"Sync layer-", "Sync journal", "WriteAt journal"} {
		t.Run(op, func(t *testing.T) {
			o, m := onMedium(t, 1<<20, overlay.Options{})
			write(t, o, 0, ones(4096))
			flush(t, o)
			write(t, o, 8192, ones(4096))
			m.Fail(func(c overlaytest.Call) error {
				if len(c.Name) >= 6 && op == c.Op+" "+c.Name[:min(len(c.Name), len(op)-len(c.Op)-1)] {
					return syscall.EIO
				}
				return nil
			})
			if err := o.Flush(); !errors.Is(err, syscall.EIO) {
				t.Errorf("Flush: %v", err)
			}
			m.Fail(nil)
			if err := o.Flush(); !errors.Is(err, syscall.EIO) {
				t.Errorf("Flush after one that failed: %v", err)
			}
			if _, err := o.WriteAt(ones(1), 0); !errors.Is(err, syscall.EIO) {
				t.Errorf("WriteAt after it: %v", err)
			}
			if _, err := o.Snapshot(); !errors.Is(err, syscall.EIO) {
				t.Errorf("Snapshot after it: %v", err)
			}
			expect(t, o, 8192, ones(4096))
		})
	}
}

// TestFailedWrite checks that a write that failed changed nothing outside its
// range, and takes no space.
func TestFailedWrite(t *testing.T) {
	o, m := onMedium(t, 1<<20, overlay.Options{})
	write(t, o, 0, ones(4096))
	m.Fail(func(c overlaytest.Call) error {
		if c.Op == "WriteAt" {
			return syscall.EIO
		}
		return nil
	})
	if _, err := o.WriteAt(ones(20_000), 2048); !errors.Is(err, syscall.EIO) {
		t.Errorf("WriteAt: %v", err)
	}
	m.Fail(nil)
	expect(t, o, 0, ones(2048))
	expect(t, o, 22_048, make([]byte, 100_000))
	if got := o.Stats().Allocated; got != 4096 {
		t.Errorf("%d bytes allocated, want 4096", got)
	}
	flush(t, o)
}

// TestBaseFails checks that a write that needs the base fails with it, and one of
// whole blocks does not.
func TestBaseFails(t *testing.T) {
	base := &blockdevtest.Failing{Device: blockdevtest.NewMemory(make([]byte, 1<<20), nil), To: 1 << 20, Err: syscall.EIO}
	o, err := overlay.Create("d", base, overlay.Options{FS: overlaytest.NewMedium()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteAt(ones(100), 100); !errors.Is(err, syscall.EIO) {
		t.Errorf("write of a part of a block: %v", err)
	}
	write(t, o, 0, ones(4096))
	expect(t, o, 0, ones(4096))
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// TestSnapshotRefused checks that a snapshot for which no file can be made is no
// failure of the disk.
func TestSnapshotRefused(t *testing.T) {
	for _, op := range []string{"OpenFile", "Truncate", "SyncDir"} {
		o, m := onMedium(t, 1<<20, overlay.Options{})
		write(t, o, 0, ones(4096))
		m.Fail(func(c overlaytest.Call) error {
			if c.Op == op {
				return syscall.ENOSPC
			}
			return nil
		})
		if _, err := o.Snapshot(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Snapshot without %s: %v", op, err)
		}
		m.Fail(nil)
		flush(t, o)
		if err := snapshot(t, o).Close(); err != nil {
			t.Error(err)
		}
		expect(t, o, 0, ones(4096))
	}
}
