package blockdevtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
)

// TestWriter tests a device that can be written, and whose bytes are want when
// it is opened. open is called once for each part, each time for a device of its
// own, and closes what it opens by t.Cleanup. want is some MiB, with pages of
// zeros and of data.
func TestWriter(t *testing.T, open func(t *testing.T) blockdev.Writer, want []byte) {
	t.Helper()
	TestDevice(t, func(t *testing.T) blockdev.Device { return open(t) }, want)
	for _, part := range []struct {
		name string
		test func(*testing.T, blockdev.Writer, []byte)
	}{
		{"WriteBoundaries", testWriteBoundaries},
		{"WriteOutside", testWriteOutside},
		{"Zeroes", testZeroes},
		{"WriteRandom", testWriteRandom},
		{"WriteConcurrent", testWriteConcurrent},
		{"WriteOverlapping", testWriteOverlapping},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t), bytes.Clone(want)) })
	}
}

// write writes n bytes of the seed's pattern to d and to want.
func write(t *testing.T, d blockdev.Writer, want []byte, off int64, n int, seed uint64) {
	t.Helper()
	p := want[off : off+int64(n)]
	r := rand.New(rand.NewPCG(seed, 9))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	kept := bytes.Clone(p)
	if got, err := d.WriteAt(p, off); got != n || err != nil {
		t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", n, off, got, err)
	}
	if !bytes.Equal(p, kept) {
		t.Errorf("WriteAt(%d bytes, %d) changed the buffer", n, off)
	}
}

// checkAll reads the device and looks at its extents.
func checkAll(t *testing.T, d blockdev.Writer, want []byte) {
	t.Helper()
	for off := 0; off < len(want); off += 1 << 20 {
		check(t, d, want, int64(off), min(1<<20, len(want)-off))
	}
	checkExtents(t, d, want, 0, int64(len(want)))
}

func testWriteBoundaries(t *testing.T, d blockdev.Writer, want []byte) {
	seed := uint64(0)
	for unit := int64(512); unit <= 1<<20; unit *= 2 {
		for k := range int64(3) {
			for _, w := range [][2]int64{{-1, 2}, {0, 1}, {0, unit}, {-1, unit + 1}, {1, unit}} {
				off, n := k*unit+w[0], w[1]
				if off < 0 || off+n > int64(len(want)) {
					continue
				}
				seed++
				write(t, d, want, off, int(n), seed)
				from := max(0, off-700)
				check(t, d, want, from, int(min(int64(len(want)), off+n+700)-from))
			}
		}
	}
	write(t, d, want, 0, 0, 0)
	size := int64(len(want))
	write(t, d, want, size-1, 1, 1)
	write(t, d, want, size, 0, 0)
	if err := d.Flush(); err != nil {
		t.Errorf("Flush: %v", err)
	}
	checkAll(t, d, want)
}

// testWriteOutside checks that what does not fit changes nothing.
func testWriteOutside(t *testing.T, d blockdev.Writer, want []byte) {
	size := int64(len(want))
	for _, bad := range [][2]int64{{-1, 1}, {-1, 2}, {size, 1}, {size - 1, 2}, {size + 1, 0}, {1<<63 - 1, 1}, {1<<63 - 1, 4096}} {
		off, n := bad[0], bad[1]
		if got, err := d.WriteAt(bytes.Repeat([]byte{dirt}, int(n)), off); err == nil || got != 0 {
			t.Errorf("WriteAt(%d bytes, %d) outside the device = %d, %v", n, off, got, err)
		}
		for name, zero := range map[string]func(int64, int64) error{"Discard": d.Discard, "WriteZeroes": d.WriteZeroes} {
			if err := zero(off, n); err == nil {
				t.Errorf("%s(%d, %d) outside the device: no error", name, off, n)
			}
		}
	}
	for name, zero := range map[string]func(int64, int64) error{"Discard": d.Discard, "WriteZeroes": d.WriteZeroes} {
		for _, bad := range [][2]int64{{0, -1}, {0, size + 1}, {1, 1<<63 - 1}} {
			if err := zero(bad[0], bad[1]); err == nil {
				t.Errorf("%s(%d, %d) outside the device: no error", name, bad[0], bad[1])
			}
		}
	}
	checkAll(t, d, want)
}

func testZeroes(t *testing.T, d blockdev.Writer, want []byte) {
	r := rand.New(rand.NewPCG(11, 12))
	for i := range 60 {
		n := 1 + r.IntN(min(len(want), 1<<(1+r.IntN(20))))
		off := r.Int64N(int64(len(want) - n + 1))
		if i%3 == 0 {
			off, n = off&^4095, n&^4095
		}
		zero := d.Discard
		if i%2 == 0 {
			zero = d.WriteZeroes
		}
		if err := zero(off, int64(n)); err != nil {
			t.Fatalf("zero %d bytes at %d: %v", n, off, err)
		}
		clear(want[off : off+int64(n)])
		from, end := max(0, off-5000), min(int64(len(want)), off+int64(n)+5000)
		check(t, d, want, from, int(end-from))
		checkExtents(t, d, want, from, end-from)
		write(t, d, want, off, min(n, 5000), uint64(i))
	}
	checkAll(t, d, want)
	if err := d.Discard(0, int64(len(want))); err != nil {
		t.Fatalf("Discard of everything: %v", err)
	}
	clear(want)
	checkAll(t, d, want)
}

// testWriteRandom mixes all calls.
func testWriteRandom(t *testing.T, d blockdev.Writer, want []byte) {
	change(t, d, want, 0, len(want), rand.New(rand.NewPCG(13, 14)), alone(800))
	checkAll(t, d, want)
}

// change makes calls within [from, to), and reads what they left.
func change(t *testing.T, d blockdev.Writer, want []byte, from, to int, r *rand.Rand, count int) {
	for range count {
		n := 1 + r.IntN(min(to-from, 1<<(1+r.IntN(18))))
		off := int64(from + r.IntN(to-from-n+1))
		var err error
		switch r.IntN(8) {
		case 0:
			err = d.Discard(off, int64(n))
			clear(want[off : off+int64(n)])
		case 1:
			err = d.WriteZeroes(off, int64(n))
			clear(want[off : off+int64(n)])
		case 2:
			err = d.Flush()
		case 3, 4:
			check(t, d, want, off, n)
		default:
			write(t, d, want, off, n, r.Uint64())
		}
		if err != nil {
			t.Errorf("change %d bytes at %d: %v", n, off, err)
			return
		}
	}
}

// testWriteConcurrent has writers that share blocks, and no byte.
func testWriteConcurrent(t *testing.T, d blockdev.Writer, want []byte) {
	const writers = 8
	// Not a multiple of anything, so that neighbours meet within a sector.
	part := len(want)/writers - 333
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			change(t, d, want, i*part, (i+1)*part, rand.New(rand.NewPCG(uint64(i), 15)), 150)
		})
	}
	wg.Wait()
	checkAll(t, d, want)
}

// testWriteOverlapping has writers of the same blocks: each sector is one of
// them's, whole.
func testWriteOverlapping(t *testing.T, d blockdev.Writer, _ []byte) {
	const writers, n = 6, 64 << 10
	for round := range 20 {
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				p := bytes.Repeat([]byte{byte(1 + i)}, n)
				if _, err := d.WriteAt(p, int64(round)*blockdev.SectorSize); err != nil {
					t.Errorf("WriteAt: %v", err)
				}
			})
		}
		wg.Wait()
		p := make([]byte, n)
		if _, err := d.ReadAt(p, int64(round)*blockdev.SectorSize); err != nil {
			t.Fatal(err)
		}
		for off := 0; off < n; off += blockdev.SectorSize {
			if err := oneWriter(p[off:off+blockdev.SectorSize], writers); err != nil {
				t.Fatalf("sector at %d: %v", off, err)
			}
		}
	}
}

func oneWriter(sector []byte, writers int) error {
	if w := int(sector[0]); w < 1 || w > writers || bytes.Count(sector, sector[:1]) != len(sector) {
		return fmt.Errorf("bytes %v..., of no single writer", sector[:8])
	}
	return nil
}
