// Package verify checks a published disk from end to end: that the origin holds
// every chunk, whole and right, that together they are the disk that the block
// map's digest names, and that the read path returns those same bytes.
//
// The chunks are read past every cache, and decoded by themselves; so what a
// Device makes of them can be compared with something.
package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// ErrDigest is returned (wrapped) when every chunk is right and the disk that
// they make is another one than the block map says.
var ErrDigest = errors.New("disk digest differs")

// A Progress is told how many chunks of how many were checked, by one goroutine
// at a time.
type Progress func(done, total int)

// MaxFaults bounds the faults that one call of Chunks reports.
const MaxFaults = 16

// Chunks reads all chunks of m from src, each as a whole, checks and decodes
// them, and compares the digest of the disk that they make with the map's, if that
// has one.
// Damaged and missing chunks are reported together, joined into one error, up
// to MaxFaults.
func Chunks(ctx context.Context, m *blockmap.Map, src chunk.Source, tell Progress) error {
	var mu sync.Mutex // guards faults and done
	var faults []error
	done := 0
	sums := make([][sha256.Size]byte, m.Len())
	err := Scan(ctx, m, src, func(i int, _ blockmap.Chunk, plain []byte, err error) error {
		sums[i] = sha256.Sum256(plain)
		mu.Lock()
		defer mu.Unlock()
		done++
		if tell != nil {
			tell(done, m.Len())
		}
		if err != nil {
			faults = append(faults, err)
		}
		if len(faults) >= MaxFaults {
			return errEnough
		}
		return nil
	})
	if len(faults) > 0 {
		return errors.Join(faults[:min(len(faults), MaxFaults)]...)
	}
	if err != nil {
		return err
	}
	info := m.Info()
	sum := blockmap.NewDiskHash(info.Layout, info.Size)
	for i := range m.Len() {
		if err := sum.Add(int64(m.Chunk(i).Index)*info.ChunkSize(), sums[i]); err != nil {
			return err
		}
	}
	if got := sum.Sum(); info.Disk != (origin.Digest{}) && got != info.Disk {
		return fmt.Errorf("%w: block map says %v, its chunks make %v", ErrDigest, info.Disk, got)
	}
	return nil
}

// errEnough ends a scan that found as many faults as are reported.
var errEnough = errors.New("too many faults")

// scansAtOnce is how many chunks are read at one time, at least: on the way from a store 30 ms
// and 1 Gbit/s away there is room for some thirty.
const scansAtOnce = 32

// Scan reads all chunks of m from src, several at once, and calls fn for each
// with its place in the map and its plaintext, which is fn's until it returns,
// or with the error of a chunk that is missing or damaged. fn is called by
// several goroutines, in no order. Its error ends the scan. A map whose keys
// cannot be read fails as for disk.Open.
func Scan(ctx context.Context, m *blockmap.Map, src chunk.Source, fn func(i int, c blockmap.Chunk, plain []byte, err error) error) error {
	g, ctx := errgroup.WithContext(ctx)
	workers := max(scansAtOnce, 2*runtime.GOMAXPROCS(0))
	info := m.Info()
	size := int(info.ChunkSize())
	if err := seal.CheckReadable(m); err != nil {
		return err
	}
	opener, err := seal.NewOpener()
	if err != nil {
		return err
	}
	defer opener.Close()
	for w := range workers {
		g.Go(func() error {
			object, plain := make([]byte, blockmap.MaxStored(size)+1), make([]byte, size)
			for i := w; i < m.Len(); i += workers {
				c := m.Chunk(i)
				n, err := ReadChunk(ctx, src, opener, &c, object, plain)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := fn(i, c, plain[:n], err); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// readTries is how often a chunk is read that arrives damaged: it may have been
// damaged on the way.
const readTries = 3

// ReadChunk reads chunk c from src into object (room for one byte more than
// blockmap.MaxStored), checks it, and decodes it into plain, of one chunk's
// size. It returns the bytes of plaintext. One that arrives damaged is read again.
func ReadChunk(ctx context.Context, src chunk.Source, o *seal.Opener, c *blockmap.Chunk, object, plain []byte) (n int, err error) {
	for range readTries {
		var corrupt *chunk.CorruptError
		if n, err = readOnce(ctx, src, o, c, object, plain); !errors.As(err, &corrupt) {
			break
		}
	}
	return n, err
}

func readOnce(ctx context.Context, src chunk.Source, o *seal.Opener, c *blockmap.Chunk, object, plain []byte) (int, error) {
	n, err := src.Fetch(ctx, c.ID, object, 0)
	if err != nil {
		return 0, fmt.Errorf("chunk %v: %w", c.ID, err)
	}
	h, err := chunk.Verify(c.ID, object[:n])
	if err != nil {
		return 0, err
	}
	if n != int(c.Stored) || h.Size != c.Size || int(h.Size) > len(plain) {
		return 0, &chunk.CorruptError{ID: c.ID, Reason: "sizes differ from the block map's"}
	}
	at := 0
	for i, f := range h.Frames {
		from := int(h.FrameOffset(i))
		w, err := o.OpenFrame(plain[at:], &h, c.Key, i, object[from:from+int(f.Len)])
		if err != nil {
			return 0, err
		}
		at += w
	}
	return at, nil
}

// Reads compares n random reads of device with reference, both of size bytes;
// the reads follow from seed. A read is of 1 byte to 1 MiB, and about half of
// them begin in chunks that m has.
func Reads(ctx context.Context, m *blockmap.Map, device, reference io.ReaderAt, n int, seed uint64) error {
	info := m.Info()
	rng := rand.New(rand.NewPCG(seed, 0))
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	for range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		off := rng.Int64N(info.Size)
		if m.Len() > 0 && rng.IntN(2) == 0 {
			off = int64(m.Chunk(rng.IntN(m.Len())).Index)*info.ChunkSize() + rng.Int64N(info.ChunkSize())
		}
		length := min(1+rng.Int64N(int64(len(got))), info.Size-off)
		if length <= 0 {
			continue
		}
		if err := readFull(device, got[:length], off); err != nil {
			return fmt.Errorf("read %d bytes at %d of the disk: %w", length, off, err)
		}
		if err := readFull(reference, want[:length], off); err != nil {
			return fmt.Errorf("read %d bytes at %d of the reference: %w", length, off, err)
		}
		if !bytes.Equal(got[:length], want[:length]) {
			return fmt.Errorf("%d bytes at %d differ from the reference", length, off)
		}
	}
	return nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// A Plain is the disk of m read chunk by chunk from src, with nothing
// remembered: a reference for Reads that shares no code with package disk.
type Plain struct {
	ctx    context.Context
	m      *blockmap.Map
	src    chunk.Source
	opener *seal.Opener
}

// NewPlain returns the disk of m; its reads end when ctx does. The caller
// closes it.
func NewPlain(ctx context.Context, m *blockmap.Map, src chunk.Source) (*Plain, error) {
	if err := seal.CheckReadable(m); err != nil {
		return nil, err
	}
	o, err := seal.NewOpener()
	if err != nil {
		return nil, err
	}
	return &Plain{ctx: ctx, m: m, src: src, opener: o}, nil
}

// Close implements io.Closer.
func (p *Plain) Close() error {
	p.opener.Close()
	return nil
}

// ReadAt implements io.ReaderAt. Any number of calls may run at once.
func (p *Plain) ReadAt(b []byte, off int64) (int, error) {
	info := p.m.Info()
	size := info.ChunkSize()
	object, plain := make([]byte, blockmap.MaxStored(int(size))+1), make([]byte, size)
	done := 0
	for done < len(b) && off+int64(done) < info.Size {
		at := off + int64(done)
		n := min(int64(len(b)-done), size-at%size, info.Size-at)
		clear(b[done : done+int(n)])
		if c, ok := p.m.Lookup(uint32(at / size)); ok {
			have, err := ReadChunk(p.ctx, p.src, p.opener, &c, object, plain)
			if err != nil {
				return done, err
			}
			if from := int(at % size); from < have {
				copy(b[done:done+int(n)], plain[from:have])
			}
		}
		done += int(n)
	}
	if done < len(b) {
		return done, io.EOF
	}
	return done, nil
}

var _ io.ReaderAt = (*Plain)(nil)

// SameDisk reports, by a nil error, whether two block maps are of one disk,
// whatever their keys, codec and origin. Disks without a digest are the same only
// if their block maps are.
func SameDisk(a, b *blockmap.Map) error {
	if x, y := a.DiskDigest(), b.DiskDigest(); x != y {
		return fmt.Errorf("%w: %v and %v", ErrDigest, x, y)
	}
	return nil
}
