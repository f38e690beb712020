package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store/zone"
)

// parts are what a read from the zone is made of, each measured by itself and in this
// process, for one frame of each chunk.
type parts struct {
	zone   *zone.Zone
	opener *seal.Opener
	file   *os.File
	object []byte
	plain  []byte

	network []time.Duration // stripes asked for, and put together; nothing checked but their checksums
	crypto  []time.Duration // SHA-256 as far as the frame's end, as the daemon does, and of the frame, as the client does; its decryption and decoding
	copies  []time.Duration // into the cache's file as far as that, and out of it
}

// parts measures, and prints a row: medians of network, crypto and copies in
// microseconds, and what they leave of whole.
func (b *bench) parts(address string, whole time.Duration) (err error) {
	config, err := zone.ParseURL(address)
	if err != nil {
		return err
	}
	p := parts{plain: make([]byte, chunk.MaxFrameSize)}
	if p.zone, err = zone.Open(config); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.zone.Close()) }()
	if p.opener, err = seal.NewOpener(); err != nil {
		return err
	}
	defer p.opener.Close()
	for _, i := range rand.Perm(b.m.Len()) {
		if err := p.measure(b.m.Chunk(i)); err != nil {
			return err
		}
	}
	if len(p.network) == 0 {
		return errors.New("the zone has none of the chunks")
	}
	median := func(list []time.Duration) time.Duration {
		slices.Sort(list)
		return list[len(list)/2]
	}
	network, crypto, copies := median(p.network), median(p.crypto), median(p.copies)
	fmt.Printf("| | %d | %d | %d | %d |\n",
		network.Microseconds(), crypto.Microseconds(), copies.Microseconds(), (whole - network - crypto - copies).Microseconds())
	return nil
}

// measure times the parts of one read.
func (p *parts) measure(c blockmap.Chunk) error {
	begun := time.Now()
	err := p.zone.Offer(context.Background(), c.ID, func(object []byte) error {
		p.network = append(p.network, time.Since(begun))
		p.object = append(p.object[:0], object...)
		return nil
	})
	if errors.Is(err, chunk.ErrNotFound) { // a chunk or two may not have been filled
		return nil
	}
	if err != nil {
		return err
	}
	begun = time.Now()
	var h chunk.Header
	if err := h.ParseAs(c.ID, p.object); err != nil {
		return err
	}
	frame := rand.IntN(len(h.Frames))
	for i := range frame + 1 {
		if err := h.VerifyFrame(c.ID, i, p.stored(&h, i)); err != nil {
			return err
		}
	}
	hashed := time.Since(begun)

	if p.file, err = os.CreateTemp("", "hit-"); err != nil {
		return err
	}
	defer func() {
		_ = p.file.Close() // as much as was written was read again
		_ = os.Remove(p.file.Name())
	}()
	begun = time.Now()
	end := h.FrameOffset(frame) + int64(h.Frames[frame].Len)
	for at := int64(0); at < end; at += chunk.FrameSize {
		if _, err := p.file.WriteAt(p.object[at:min(end, at+chunk.FrameSize)], at); err != nil {
			return err
		}
	}
	stored := p.stored(&h, frame)
	if _, err := p.file.ReadAt(stored, h.FrameOffset(frame)); err != nil {
		return err
	}
	p.copies = append(p.copies, time.Since(begun))

	begun = time.Now()
	if sha256.Sum256(stored) != h.Frames[frame].Sum {
		return fmt.Errorf("frame %d of chunk %v is another", frame, c.ID)
	}
	if _, err := p.opener.OpenFrame(p.plain, &h, c.Key, frame, stored); err != nil {
		return err
	}
	p.crypto = append(p.crypto, hashed+time.Since(begun))
	return nil
}

// stored returns the stored bytes of frame i.
func (p *parts) stored(h *chunk.Header, i int) []byte {
	return p.object[h.FrameOffset(i):][:h.Frames[i].Len]
}
