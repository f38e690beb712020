// Package blockdevtest has the suite that every blockdev.Device passes, wrapper
// or not, and devices for tests: one in memory, and some that are slow or fail.
package blockdevtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/rivuletfs/rivulet/blockdev"
)

// dirt fills buffers before a read, so that bytes left alone are seen.
const dirt = 0xA5

// TestDevice tests a device against the bytes that it should have. open is
// called once for each part of the suite, and closes what it opens by
// t.Cleanup.
func TestDevice(t *testing.T, open func(t *testing.T) blockdev.Device, want []byte) {
	t.Helper()
	for _, part := range []struct {
		name string
		test func(*testing.T, blockdev.Device, []byte)
	}{
		{"Size", testSize},
		{"Reader", testReader},
		{"Boundaries", testBoundaries},
		{"Ends", testEnds},
		{"ZerosClearTheBuffer", testZeros},
		{"Random", testRandom},
		{"Concurrent", testConcurrent},
		{"Extents", testExtents},
		{"ExtentsStop", testExtentsStop},
		{"Prefetch", testPrefetch},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t), want) })
	}
}

func testSize(t *testing.T, d blockdev.Device, want []byte) {
	if d.Size() != int64(len(want)) {
		t.Errorf("Size() = %d, want %d", d.Size(), len(want))
	}
}

// testReader runs the standard library's suite over the first 2 KiB: it reads
// byte by byte, among others.
func testReader(t *testing.T, d blockdev.Device, want []byte) {
	n := min(len(want), 2<<10)
	if err := iotest.TestReader(io.NewSectionReader(d, 0, int64(n)), want[:n]); err != nil {
		t.Error(err)
	}
}

// check reads n bytes at off into a dirty buffer and compares.
func check(t *testing.T, d blockdev.Device, want []byte, off int64, n int) {
	t.Helper()
	p := bytes.Repeat([]byte{dirt}, n)
	checkInto(t, d, want, off, p)
}

func checkInto(t *testing.T, d blockdev.Device, want []byte, off int64, p []byte) {
	t.Helper()
	got, err := d.ReadAt(p, off)
	n := len(p)
	if left := int64(len(want)) - off; int64(n) > left {
		n = int(left)
	}
	if got != n {
		t.Errorf("ReadAt(%d bytes, %d) = %d, %v; want %d", len(p), off, got, err, n)
		return
	}
	if n < len(p) && !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt(%d bytes, %d) over the end: err %v, want io.EOF", len(p), off, err)
	}
	atEnd := off+int64(n) == int64(len(want)) // io.ReaderAt allows io.EOF there
	if n == len(p) && err != nil && (!atEnd || !errors.Is(err, io.EOF)) {
		t.Errorf("ReadAt(%d bytes, %d): %v", len(p), off, err)
	}
	if i := firstDifference(p[:n], want[off:off+int64(n)]); i >= 0 {
		t.Errorf("ReadAt(%d bytes, %d): byte %d is %#x, want %#x", len(p), off, i, p[i], want[off+int64(i)])
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// testBoundaries reads around every power of two that could be a boundary of
// frames, chunks or pages.
func testBoundaries(t *testing.T, d blockdev.Device, want []byte) {
	for unit := int64(512); unit <= 1<<20; unit *= 2 {
		for k := int64(0); k < 5; k++ {
			for _, r := range [][2]int64{{-1, 2}, {0, 1}, {0, unit}, {-1, unit + 1}, {0, unit + 1}, {-unit, 2 * unit}} {
				off, n := k*unit+r[0], r[1]
				if off >= 0 && off+n <= int64(len(want)) {
					check(t, d, want, off, int(n))
				}
			}
		}
	}
}

func testEnds(t *testing.T, d blockdev.Device, want []byte) {
	size := int64(len(want))
	for _, n := range []int{1, 511, 4096, 70_000} {
		if int64(n) <= size {
			check(t, d, want, size-int64(n), n)
			check(t, d, want, size-int64(n), n+1)
			check(t, d, want, size-1, n)
		}
	}
	p := []byte{dirt}
	for _, off := range []int64{size, size + 1, 1 << 62} {
		if n, err := d.ReadAt(p, off); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("ReadAt(1 byte, %d) past the end = %d, %v; want io.EOF", off, n, err)
		}
	}
	if n, err := d.ReadAt(p, -1); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("ReadAt(1 byte, -1) = %d, %v; want an error that is not io.EOF", n, err)
	}
	if n, err := d.ReadAt(nil, 0); n != 0 || err != nil && size > 0 {
		t.Errorf("ReadAt(0 bytes, 0) = %d, %v", n, err)
	}
}

// testZeros reads data, then zeros of the same length into the same buffer.
func testZeros(t *testing.T, d blockdev.Device, want []byte) {
	const n = 4096
	var data, zeros []int64
	for off := 0; off+n <= len(want); off += n {
		page := want[off : off+n]
		if bytes.Count(page, []byte{0}) == n {
			zeros = append(zeros, int64(off))
		} else {
			data = append(data, int64(off))
		}
	}
	if len(zeros) == 0 || len(data) == 0 {
		t.Skip("the device has no page of zeros, or none of data")
	}
	p := make([]byte, n)
	for i, off := range zeros {
		if i == 64 {
			break
		}
		checkInto(t, d, want, data[i%len(data)], p)
		checkInto(t, d, want, off, p)
	}
}

func testRandom(t *testing.T, d blockdev.Device, want []byte) {
	randomReads(t, d, want, rand.New(rand.NewPCG(1, 2)), alone(500))
}

// alone returns how often one goroutine does what it could do n times: less often
// where tests are to be short, under the race detector, which finds nothing in it.
func alone(n int) int {
	if testing.Short() {
		return n / 5
	}
	return n
}

func randomReads(t *testing.T, d blockdev.Device, want []byte, r *rand.Rand, count int) {
	if len(want) == 0 {
		return
	}
	for range count {
		n := 1 + r.IntN(min(len(want), 1<<(1+r.IntN(20))))
		check(t, d, want, r.Int64N(int64(len(want)-n+1)), n)
	}
}

func testConcurrent(t *testing.T, d blockdev.Device, want []byte) {
	var wg sync.WaitGroup
	for i := range uint64(8) {
		wg.Go(func() { randomReads(t, d, want, rand.New(rand.NewPCG(i, 3)), 50) })
	}
	wg.Wait()
}

func testExtents(t *testing.T, d blockdev.Device, want []byte) {
	size := int64(len(want))
	r := rand.New(rand.NewPCG(5, 6))
	checkExtents(t, d, want, 0, size)
	checkExtents(t, d, want, 0, 0)
	checkExtents(t, d, want, size, 0)
	for range 50 {
		if size == 0 {
			break
		}
		n := 1 + r.Int64N(size)
		checkExtents(t, d, want, r.Int64N(size-n+1), n)
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, size + 1}, {size, 1}, {1 << 62, 1 << 62}, {0, -1}} {
		err := blockdev.Extents(t.Context(), d, bad[0], bad[1], func(blockdev.Extent) bool { return true })
		if err == nil {
			t.Errorf("Extents(%d, %d) outside the device: no error", bad[0], bad[1])
		}
	}
}

// checkExtents checks that the extents cover the range exactly, that neighbours
// differ, and that holes read as zeros.
func checkExtents(t *testing.T, d blockdev.Device, want []byte, off, n int64) {
	t.Helper()
	var last blockdev.Extent
	at := off
	err := blockdev.Extents(t.Context(), d, off, n, func(e blockdev.Extent) bool {
		switch {
		case e.Length < 1 || e.Offset != at || e.Offset+e.Length > off+n:
			t.Errorf("Extents(%d, %d): got %+v, expected an extent at %d", off, n, e, at)
			return false
		case last.Length > 0 && last.Hole == e.Hole && last.Local == e.Local:
			t.Errorf("Extents(%d, %d): neighbours %+v and %+v are of one kind", off, n, last, e)
		case e.Hole && bytes.Count(want[e.Offset:e.Offset+e.Length], []byte{0}) != int(e.Length):
			t.Errorf("Extents(%d, %d): hole %+v has data", off, n, e)
		}
		at, last = e.Offset+e.Length, e
		return true
	})
	if err != nil || at != off+n {
		t.Errorf("Extents(%d, %d) ends at %d: %v", off, n, at, err)
	}
}

func testExtentsStop(t *testing.T, d blockdev.Device, want []byte) {
	calls := 0
	err := blockdev.Extents(t.Context(), d, 0, int64(len(want)), func(blockdev.Extent) bool {
		calls++
		return false
	})
	if err != nil || calls != min(1, len(want)) {
		t.Errorf("Extents stopped at once: %d calls, %v", calls, err)
	}
}

// testPrefetch checks that the advice does not change the data.
func testPrefetch(t *testing.T, d blockdev.Device, want []byte) {
	if err := blockdev.Prefetch(context.Background(), d, 0, int64(len(want))); err != nil {
		t.Errorf("Prefetch: %v", err)
	}
	randomReads(t, d, want, rand.New(rand.NewPCG(7, 8)), 20)
}
