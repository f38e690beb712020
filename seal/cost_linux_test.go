package seal

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/chunk"
)

// costPlaintexts are a chunk that is stored raw and one that is coded.
func costPlaintexts() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 1))
	noise, words := make([]byte, chunk.Size), make([]byte, chunk.Size)
	for i := range noise {
		noise[i] = byte(rng.Uint32()) | 1
		words[i] = "the quick brown fox jumps over the lazy dog\n"[rng.IntN(44)] // coded to a half, without repeats
	}
	return map[string][]byte{"raw": noise, "coded": words}
}

// paired runs two functions in turns and reports the median CPU time of the
// second over that of the first: what else the machine does counts little.
func paired(b *testing.B, first, second func() error) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var times [2][]time.Duration
	for b.Loop() {
		for i, f := range []func() error{first, second} {
			start := threadTime(b)
			if err := f(); err != nil {
				b.Fatal(err)
			}
			times[i] = append(times[i], threadTime(b)-start)
		}
	}
	for i := range times {
		slices.Sort(times[i])
	}
	middle := len(times[0]) / 2
	b.ReportMetric(float64(times[1][middle])/float64(times[0][middle]), "x")
}

// threadTime returns the CPU time of this thread so far.
func threadTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// BenchmarkCipherCost compares sealing with all of it but key and encryption.
func BenchmarkCipherCost(b *testing.B) {
	salt, err := NewSalt("bench", 1)
	if err != nil {
		b.Fatal(err)
	}
	for name, plain := range costPlaintexts() {
		b.Run(name, func(b *testing.B) {
			s, err := NewSealer(Options{Salt: salt})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(2 * int64(len(plain)))
			paired(b, func() error {
				s.encode(plain)
				s.sumFrames()
				_, err := s.header.AppendBinary(s.object[:0])
				return err
			}, func() error {
				_, err := s.Seal(plain)
				return err
			})
		})
	}
}

// stored is a Source of one chunk.
type stored []byte

func (s stored) Fetch(_ context.Context, _ chunk.ID, dst []byte, off int64) (int, error) {
	return copy(dst, s[off:]), nil
}

// BenchmarkOpenCost compares reading a raw frame out of a warm sealed chunk with
// reading it plain, both through the door.
func BenchmarkOpenCost(b *testing.B) {
	salt, err := NewSalt("bench", 1)
	if err != nil {
		b.Fatal(err)
	}
	s, err := NewSealer(Options{Salt: salt, Policy: NeverCode})
	if err != nil {
		b.Fatal(err)
	}
	c, err := s.Seal(costPlaintexts()["raw"])
	if err != nil {
		b.Fatal(err)
	}
	h, err := chunk.ParseHeader(c.Object)
	if err != nil {
		b.Fatal(err)
	}
	o, err := NewOpener()
	if err != nil {
		b.Fatal(err)
	}
	defer o.Close()
	door, ctx := chunk.NewDoor(stored(c.Object)), context.Background()
	buf, i := make([]byte, chunk.FrameSize), 0
	read := func() error {
		i = (i + 1) % len(h.Frames)
		_, err := door.ReadChunk(ctx, c.ID, buf[:h.FrameSize(i)], h.FrameOffset(i))
		return err
	}
	b.SetBytes(2 * chunk.FrameSize)
	b.ReportAllocs()
	paired(b, read, func() error {
		if err := read(); err != nil {
			return err
		}
		_, err := o.OpenFrame(buf, &h, c.Key, i, buf[:h.FrameSize(i)])
		return err
	})
}
