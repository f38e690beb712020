package zone

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"github.com/rivuletfs/rivulet/chunk"
)

// The format of doc/format/zone.md, in bytes.
const (
	stripeMagic  = "rvz1"
	stripeHeader = 48
	checksumAt   = 44

	// MaxStripes is the most stripes that a chunk is cut into.
	MaxStripes = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errStripe is returned (wrapped) for a value that is not the stripe that its key
// promises.
var errStripe = errors.New("bad stripe")

// A shape is how chunks are cut: any k of n stripes rebuild a chunk.
type shape struct{ k, n int }

// check reports why there is no such shape.
func (s shape) check() error {
	if s.k < 1 || s.n < s.k || s.n > MaxStripes {
		return fmt.Errorf("%d of %d stripes: want 1 to %d, and no more needed than there are", s.k, s.n, MaxStripes)
	}
	return nil
}

// all returns every stripe.
func (s shape) all() stripeSet { return 1<<s.n - 1 }

// payload returns how many bytes of a stored object of size bytes a stripe has.
func (s shape) payload(size int) int { return (size + s.k - 1) / s.k }

// longest returns the length of the longest stripe.
func (s shape) longest() int { return stripeHeader + s.payload(chunk.MaxStoredSize) }

// key names a stripe in a server: printable, and short enough for memcached.
func (s shape) key(id chunk.ID, index int) string {
	b := make([]byte, 0, 96)
	b = append(b, stripeMagic+":"...)
	b = hex.AppendEncode(b, id[:])
	for _, n := range [3]int{s.k, s.n, index} {
		b = append(b, ':')
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return string(b)
}

// header returns what stands before the payload of a stripe of an object of size
// bytes.
func (s shape) header(id chunk.ID, index, size int, payload []byte) []byte {
	h := make([]byte, 0, stripeHeader)
	h = append(h, stripeMagic...)
	h = append(h, byte(s.k), byte(s.n), byte(index), 0)
	h = append(h, id[:]...)
	h = binary.LittleEndian.AppendUint32(h, uint32(size))
	return binary.LittleEndian.AppendUint32(h, checksum(h, payload))
}

func checksum(header, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[:checksumAt], castagnoli), castagnoli, payload)
}

// parse checks that value is stripe index of chunk id, as far as a server cannot
// have forged it, and returns its payload, a part of value, and the size of the
// stored object. The error is errStripe, wrapped.
func (s shape) parse(id chunk.ID, index int, value []byte) (payload []byte, size int, err error) {
	if len(value) < stripeHeader {
		return nil, 0, fmt.Errorf("%w: %d bytes", errStripe, len(value))
	}
	header, payload := value[:stripeHeader], value[stripeHeader:]
	want := [8]byte{'r', 'v', 'z', '1', byte(s.k), byte(s.n), byte(index), 0}
	if [8]byte(header) != want {
		return nil, 0, fmt.Errorf("%w: begins with % x, want % x", errStripe, header[:8], want)
	}
	if chunk.ID(header[8:40]) != id {
		return nil, 0, fmt.Errorf("%w: it is of another chunk", errStripe)
	}
	size64 := binary.LittleEndian.Uint32(header[40:])
	if size64 == 0 || size64 > chunk.MaxStoredSize || len(payload) != s.payload(int(size64)) {
		return nil, 0, fmt.Errorf("%w: %d bytes for an object of %d", errStripe, len(payload), size64)
	}
	if binary.LittleEndian.Uint32(header[checksumAt:]) != checksum(header, payload) {
		return nil, 0, fmt.Errorf("%w: checksum differs", errStripe)
	}
	return payload, int(size64), nil
}
