package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

func TestSuite(t *testing.T) {
	im := newImage(t, 6, 35)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			blockdevtest.TestDevice(t, func(t *testing.T) blockdev.Device {
				return im.open(t, chunk.NewDoor(im.chunks), Options{Mode: mode.mode})
			}, im.flat)
		})
	}
}

// A damagingSource cuts answers short and flips bits, but in no more than two
// answers about a chunk, so that a disk gets over all of it.
type damagingSource struct {
	chunks objects

	mu     sync.Mutex
	rng    *rand.Rand
	damage map[chunk.ID]int
}

func (s *damagingSource) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	n, err := s.chunks.Fetch(ctx, id, dst, off)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n == 0 || s.damage[id] == corruptTries-1 || s.rng.IntN(4) != 0 {
		return n, err
	}
	s.damage[id]++
	if s.rng.IntN(2) == 0 {
		return s.rng.IntN(n), nil
	}
	dst[s.rng.IntN(n)] ^= 1 << s.rng.IntN(8)
	return n, nil
}

// badNetwork returns a source of im's chunks that is slow, fails and damages.
func (im *image) badNetwork(seed uint64) chunk.Source {
	var s chunk.Source = &damagingSource{
		chunks: im.chunks, rng: rand.New(rand.NewPCG(seed, 9)), damage: make(map[chunk.ID]int),
	}
	s = &chunktest.Flaky{Source: s, Every: 6, Seed: seed}
	return &chunktest.Slow{Source: s, Latency: 10 * time.Millisecond, Bandwidth: 100 << 20}
}

// TestDifferential reads from many goroutines, with a memory far too small,
// and compares all with the flat disk.
func TestDifferential(t *testing.T) {
	im := newImage(t, 20, 30)
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := im.open(t, chunk.NewDoor(im.badNetwork(31)), Options{
					Mode: mode.mode, Fetches: 6, Memory: NewMemory(12 * (frameSize + frameOverhead)),
				})
				together(8, func(i int) {
					rng := rand.New(rand.NewPCG(uint64(i), 32))
					for range 60 {
						off := rng.Int64N(d.Size())
						length := rng.Int64N(min(d.Size()-off, 1<<rng.IntN(22)) + 1)
						switch rng.IntN(8) {
						case 0:
							_ = d.Prefetch(context.Background(), off, length)
						case 1:
							_ = d.Extents(context.Background(), off, length, func(blockdev.Extent) bool { return true })
						default:
							im.check(t, d, int(off), int(length))
						}
					}
				})
			})
		})
	}
}

// FuzzRead reads what the input says, twelve bytes a read: offset and length.
func FuzzRead(f *testing.F) {
	im := newImage(f, 7, 33)
	hole := binary.LittleEndian.AppendUint64(nil, 0)
	hole = binary.LittleEndian.AppendUint32(hole, 4096)
	hole = binary.LittleEndian.AppendUint64(hole, 3*chunkSize) // data, then a hole of its length
	hole = binary.LittleEndian.AppendUint32(hole, 4096)
	f.Add(hole)
	f.Add(bytes.Repeat([]byte{0xFF, 0xFF, 0x1F, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0x0F, 0}, 3))
	f.Fuzz(func(t *testing.T, in []byte) {
		synctest.Test(t, func(t *testing.T) { im.replay(t, in) })
	})
}

// replay does the reads of FuzzRead.
func (im *image) replay(t *testing.T, in []byte) {
	d := im.open(t, chunk.NewDoor(im.badNetwork(34)), Options{Memory: NewMemory(6 * frameSize)})
	for ; len(in) >= 12; in = in[12:] {
		off := int(binary.LittleEndian.Uint64(in) % uint64(len(im.flat)))
		im.check(t, d, off, int(binary.LittleEndian.Uint32(in[8:])%(4<<20)))
	}
}
