//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/verify"
)

// levels are the ways to code that are compared.
var levels = []struct {
	name   string
	policy seal.Policy
	level  zstd.EncoderLevel
}{
	{name: "raw", policy: seal.NeverCode},
	{name: "fastest", level: zstd.SpeedFastest},
	{name: "default", level: zstd.SpeedDefault},
	{name: "better", level: zstd.SpeedBetterCompression},
}

// A frame is one frame of a chunk, sealed at some level.
type frame struct {
	stored int
	open   time.Duration // CPU time to decrypt and decode it
}

// A coded is one chunk, sealed at one level.
type coded struct {
	stored int
	frames []frame
}

// A total is a level's cost over all distinct chunks.
type total struct {
	seal, open time.Duration // CPU
	stored     int64
	raw        int // chunks stored raw
}

// A census is what all images of a store have.
type census struct {
	store   origin.Store
	opener  *seal.Opener
	sealers []*seal.Sealer // by level
	chunks  map[chunk.ID][]coded
	plain   int64 // bytes of the distinct chunks
	totals  []total
	maps    map[string]*blockmap.Map
	singly  []int64                 // stored bytes by level, images added up
	gzip    map[origin.Digest]int64 // of each layer
	gzips   int64                   // of the images, added up
}

func newCensus(store origin.Store) (*census, error) {
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		return nil, err
	}
	c := &census{
		store: store, chunks: make(map[chunk.ID][]coded), totals: make([]total, len(levels)),
		maps: make(map[string]*blockmap.Map), singly: make([]int64, len(levels)), gzip: make(map[origin.Digest]int64),
	}
	for _, l := range levels {
		s, err := seal.NewSealer(seal.Options{Salt: salt, Policy: l.policy, Level: l.level})
		if err != nil {
			return nil, err
		}
		c.sealers = append(c.sealers, s)
	}
	c.opener, err = seal.NewOpener()
	return c, err
}

func (c *census) close() { c.opener.Close() }

// images measures the chunks of all images.
func (c *census) images(ctx context.Context) error {
	object, plain := make([]byte, blockmap.MaxStored(chunk.Size)+1), make([]byte, chunk.Size)
	return catalog.Names(ctx, c.store, func(name string, d origin.Digest) error {
		locked, err := catalog.Load(ctx, c.store, d)
		if err != nil {
			return err
		}
		m, err := seal.UnlockFor(ctx, locked, c.store)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		c.maps[name] = m
		for _, l := range m.Layers() {
			c.gzip[l.Compressed] = l.CompressedSize
			c.gzips += l.CompressedSize
		}
		counted := make(map[chunk.ID]bool) // in this image
		for i := range m.Len() {
			e := m.Chunk(i)
			if c.chunks[e.ID] == nil {
				n, err := verify.ReadChunk(ctx, c.store, c.opener, &e, object, plain)
				if err == nil {
					err = c.measure(e.ID, plain[:n])
				}
				if err != nil {
					return fmt.Errorf("image %s: %w", name, err)
				}
			}
			if counted[e.ID] {
				continue
			}
			counted[e.ID] = true
			for l, one := range c.chunks[e.ID] {
				c.singly[l] += int64(one.stored)
			}
		}
		return nil
	})
}

// measure seals and opens a chunk at each level.
func (c *census) measure(id chunk.ID, plain []byte) error {
	c.plain += int64(len(plain))
	dst := make([]byte, chunk.FrameSize)
	for l, s := range c.sealers {
		t := &c.totals[l]
		start := threadTime()
		sealed, err := s.Seal(plain)
		t.seal += threadTime() - start
		if err != nil {
			return err
		}
		h, err := chunk.ParseHeader(sealed.Object)
		if err != nil {
			return err
		}
		one := coded{stored: len(sealed.Object)}
		for i := range h.Frames {
			stored := sealed.Object[h.FrameOffset(i):h.FrameOffset(i+1)]
			start := threadTime()
			if _, err := c.opener.OpenFrame(dst, &h, sealed.Key, i, stored); err != nil {
				return err
			}
			took := threadTime() - start
			one.frames = append(one.frames, frame{len(stored), took})
			t.open += took
		}
		t.stored += int64(one.stored)
		if h.Codec == chunk.Raw {
			t.raw++
		}
		c.chunks[id] = append(c.chunks[id], one)
	}
	return nil
}

// threadTime returns the CPU time of this thread so far.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // only for a clock that Linux lacks
	}
	return time.Duration(t.Nano())
}
