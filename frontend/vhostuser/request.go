package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/virtqueue"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

const (
	maxRanges = 16      // ranges of one discard
	maxPiece  = 1 << 20 // bytes that go through a buffer of ours at a time

	inlineBytes = 512 << 10 // larger requests are never served by the leader itself

	maxRangeSectors = 1 << 22 // as guests are told; longer ones are done all the same
)

// statusLeft is of a request that is left to the next process: nobody is told of it.
const statusLeft = 0xff

// errMalformed is of a chain that is no request, not even one that can be answered.
var errMalformed = errors.New("chain has no room for a request's header and status")

// A disk is an Export as requests see it.
type disk struct {
	device   blockdev.Device
	writer   blockdev.Writer // nil: read-only
	sectors  uint64
	serial   [wire.BlkIDSize]byte
	stats    *counters
	failed   func(op string, off int64, n int, err error) // told of what the device fails
	writable bool
	kept     bool        // requests that get no answer are done again by the next process; changes while no ring runs
	through  atomic.Bool // every write is flushed before it is answered
}

func newDisk(e *Export, stats *counters) *disk {
	d := &disk{device: e.Device, sectors: uint64(e.Device.Size()) / wire.SectorSize, stats: stats}
	if w, ok := e.Device.(blockdev.Writer); ok && !e.ReadOnly {
		d.writer, d.writable = w, true
	}
	copy(d.serial[:], e.Serial)
	return d
}

// A request is a chain that was understood. Its parts are the guest's memory.
type request struct {
	wire.BlkHeader
	out, in  [][]byte // data, without header and status
	outBytes int64
	inBytes  int64
	status   *byte
	written  uint32 // of the chain's memory
}

// parse understands a chain, whose parts it changes. The header is copied first.
func (r *request) parse(c *virtqueue.Chain) error {
	var header [wire.BlkHeaderSize]byte
	out, n := take(c.Out, header[:])
	last := len(c.In) - 1
	if n < len(header) || last < 0 {
		return errMalformed
	}
	r.BlkHeader = wire.ParseBlkHeader(&header)
	r.out, r.outBytes, r.inBytes = out, length(out), length(c.In)-1
	r.written = uint32(min(r.inBytes+1, math.MaxUint32))
	end := c.In[last]
	r.status = &end[len(end)-1]
	if c.In[last] = end[:len(end)-1]; len(end) == 1 {
		c.In = c.In[:last]
	}
	r.in = c.In
	return nil
}

// take copies from the beginning of parts, and returns what is left of them.
func take(parts [][]byte, p []byte) (left [][]byte, n int) {
	for len(parts) > 0 && n < len(p) {
		k := copy(p[n:], parts[0])
		n += k
		if parts[0] = parts[0][k:]; len(parts[0]) == 0 {
			parts = parts[1:]
		}
	}
	return parts, n
}

// put copies p to the beginning of parts, and returns what is left of them.
func put(parts [][]byte, p []byte) (left [][]byte) {
	for len(parts) > 0 && len(p) > 0 {
		k := copy(parts[0], p)
		p = p[k:]
		if parts[0] = parts[0][k:]; len(parts[0]) == 0 {
			parts = parts[1:]
		}
	}
	return parts
}

func length(parts [][]byte) (n int64) {
	for _, p := range parts {
		n += int64(len(p))
	}
	return n
}

// bytes is how much data the request moves.
func (r *request) bytes() int64 { return r.inBytes + r.outBytes }

// slow tells requests that nobody should wait for but their own worker.
func (r *request) slow() bool { return r.Type == wire.BlkFlush || r.bytes() > inlineBytes }

// serve does what r asks for and writes its status. direct says that the device may
// read into the guest's memory itself. It returns false for a request that gets no answer
// from this process: it stays among those in flight.
func (d *disk) serve(r *request, direct bool) (answered bool) {
	d.stats.requests.Add(1)
	status := d.do(r, direct)
	if status == statusLeft {
		return false
	}
	if status != wire.StatusOK {
		d.stats.failed.Add(1)
	}
	*r.status = status
	return true
}

func (d *disk) do(r *request, direct bool) byte {
	switch r.Type {
	case wire.BlkIn:
		return d.read(r, direct)
	case wire.BlkOut:
		return d.write(r)
	case wire.BlkFlush:
		return d.flush()
	case wire.BlkGetID:
		put(r.in, d.serial[:])
		return wire.StatusOK
	case wire.BlkDiscard, wire.BlkWriteZeroes:
		return d.zero(r)
	}
	return wire.StatusUnsupported
}

// within returns the offset of n bytes at a sector of the disk, or false.
func (d *disk) within(sector uint64, n int64) (off int64, ok bool) {
	if n%wire.SectorSize != 0 || sector > d.sectors || uint64(n)/wire.SectorSize > d.sectors-sector {
		return 0, false
	}
	return int64(sector * wire.SectorSize), true
}

func (d *disk) read(r *request, direct bool) byte {
	off, ok := d.within(r.Sector, r.inBytes)
	if !ok {
		return wire.StatusIOError
	}
	if direct && len(r.in) == 1 {
		return d.readInto(r.in[0], off)
	}
	// The device is asked for many parts at once, since it fetches them at once.
	for left := r.in; r.inBytes > 0; {
		n := min(r.inBytes, maxPiece)
		b := getBuffer(int(n))
		if status := d.readInto(b.b[:n], off); status != wire.StatusOK {
			b.free()
			return status
		}
		left = put(left, b.b[:n])
		b.free()
		off += n
		r.inBytes -= n
	}
	return wire.StatusOK
}

// readInto fills p from the device.
func (d *disk) readInto(p []byte, off int64) byte {
	n, err := d.device.ReadAt(p, off)
	if n == len(p) && (err == nil || errors.Is(err, io.EOF)) {
		d.stats.read.Add(int64(n))
		return wire.StatusOK
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return d.deviceError("read", off, len(p), err)
}

func (d *disk) write(r *request) byte {
	off, ok := d.within(r.Sector, r.outBytes)
	if !ok || !d.writable {
		return wire.StatusIOError
	}
	for left := r.out; r.outBytes > 0; {
		n := min(r.outBytes, maxPiece)
		b := getBuffer(int(n))
		left, _ = take(left, b.b[:n])
		_, err := d.writer.WriteAt(b.b[:n], off)
		b.free()
		if err != nil {
			return d.deviceError("write", off, int(n), err)
		}
		d.stats.written.Add(n)
		off += n
		r.outBytes -= n
	}
	return d.settle()
}

// flush brings to the medium what was written. A disk that cannot be written has
// nothing to bring.
func (d *disk) flush() byte {
	if !d.writable {
		return wire.StatusOK
	}
	if err := d.writer.Flush(); err != nil {
		return d.deviceError("flush", 0, 0, err)
	}
	return wire.StatusOK
}

// settle ends a write.
func (d *disk) settle() byte {
	if d.through.Load() {
		return d.flush()
	}
	return wire.StatusOK
}

// zero discards or zeroes ranges, all or none of which are within the disk.
func (d *disk) zero(r *request) byte {
	var list [maxRanges]wire.Range
	count := r.outBytes / wire.RangeSize
	if !d.writable {
		return wire.StatusUnsupported
	}
	if count == 0 || count > maxRanges || r.outBytes%wire.RangeSize != 0 {
		return wire.StatusIOError
	}
	for i := range list[:count] {
		var b [wire.RangeSize]byte
		r.out, _ = take(r.out, b[:])
		list[i] = wire.ParseRange(&b)
		switch allowed := uint32(wire.FlagUnmap); {
		case r.Type == wire.BlkDiscard && list[i].Flags != 0, list[i].Flags&^allowed != 0:
			return wire.StatusUnsupported
		}
		if _, ok := d.within(list[i].Sector, int64(list[i].Sectors)*wire.SectorSize); !ok {
			return wire.StatusIOError
		}
	}
	for _, e := range list[:count] {
		off, n := int64(e.Sector)*wire.SectorSize, int64(e.Sectors)*wire.SectorSize
		op, zero := "write zeroes", d.writer.WriteZeroes
		if r.Type == wire.BlkDiscard || e.Flags&wire.FlagUnmap != 0 {
			op, zero = "discard", d.writer.Discard
		}
		if err := zero(off, n); err != nil {
			return d.deviceError(op, off, int(n), err)
		}
	}
	return d.settle()
}

func (d *disk) deviceError(op string, off int64, n int, err error) byte {
	if d.kept && errors.Is(err, blockdev.ErrLeft) {
		return statusLeft
	}
	d.stats.deviceErrors.Add(1)
	d.failed(op, off, n, fmt.Errorf("%s %d bytes at %d: %w", op, n, off, err))
	return wire.StatusIOError
}

// features are the virtio features that concern the disk.
func (d *disk) features() uint64 {
	f := uint64(wire.FeatureSegMax | wire.FeatureBlockSize | wire.FeatureTopology | wire.FeatureMultiQueue | wire.FeatureFlush)
	if !d.writable {
		return f | wire.FeatureReadOnly
	}
	return f | wire.FeatureConfigWCE | wire.FeatureDiscard | wire.FeatureWriteZeroes
}

// config is the configuration space.
func (d *disk) config(queues int) []byte {
	c := wire.BlkConfig{
		Capacity: d.sectors, BlockSize: blockdev.SectorSize, PhysicalExponent: 3, OptimalIO: 8,
		// Two of the 128 descriptors that QEMU's rings have by default are for
		// header and status.
		SegMax: 126, Queues: uint16(queues),
	}
	if d.writable {
		c.MaxDiscard, c.MaxDiscardSegs, c.DiscardAlign = maxRangeSectors, maxRanges, 8
		c.MaxWriteZeroes, c.MaxWriteZeroesSeg, c.MayUnmap = maxRangeSectors, maxRanges, 1
		if !d.through.Load() {
			c.Writeback = 1
		}
	}
	return c.Append(nil)
}

// A buffer is memory of ours that data pass through.
type buffer struct {
	b     []byte
	class int
}

// bufferSizes are the sizes that are kept for reuse, in bytes.
var bufferSizes = [...]int{4 << 10, 128 << 10, maxPiece}

var bufferPools [len(bufferSizes)]sync.Pool

// getBuffer returns a buffer of at least n bytes, at most maxPiece, with any
// content.
func getBuffer(n int) *buffer {
	class := 0
	for bufferSizes[class] < n {
		class++
	}
	if b, ok := bufferPools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{make([]byte, bufferSizes[class]), class}
}

func (b *buffer) free() { bufferPools[b.class].Put(b) }
