package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/seal"
)

// printFrames compares frame sizes: what they store, by coding one of n chunks,
// and what starts fetch by the frame.
func (c *collection) printFrames(w io.Writer, n int) error {
	fmt.Fprintf(w, "\n### Frames\n\nStored: one of %d chunks of the default layout, chosen by digest, coded and sealed.\n\n", n)
	head := []string{"frame", "chunks coded", "MB", "stored MB", "stored"}
	for _, s := range c.starts {
		head = append(head, s.Label)
	}
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat(" ---: |", len(head)))
	for _, kib := range []int{16, 32, 64, 128, 256} {
		if err := c.frames(w, point{Params: layout.Default}, kib<<10, n); err != nil {
			return err
		}
	}
	return nil
}

func (c *collection) frames(w io.Writer, p point, frame, n int) error {
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		return err
	}
	sealer, err := seal.NewSealer(seal.Options{Salt: salt, ChunkSize: p.Chunk, FrameSize: frame})
	if err != nil {
		return err
	}
	seen := make(map[chunkID]bool)
	buf := make([]byte, p.Chunk)
	var plain, stored int64
	segments, err := c.cutAll(p)
	if err != nil {
		return err
	}
	for id := range c.current() {
		l, s := c.byID[id], segments[id]
		for i, sum := range s.ids {
			if s.sizes[i] == 0 || seen[sum] || binary.LittleEndian.Uint32(sum[:])%uint32(n) != 0 {
				continue
			}
			seen[sum] = true
			if err := l.readChunk(s, i, buf); err != nil {
				return err
			}
			sealed, err := sealer.Seal(buf)
			if err != nil {
				return err
			}
			plain += int64(sealed.Size)
			stored += int64(len(sealed.Object))
		}
	}
	fmt.Fprintf(w, "| %d KiB | %d | %.1f | %.1f | %.1f %% |", frame>>10, len(seen),
		float64(plain)/1e6, float64(stored)/1e6, 100*float64(stored)/float64(plain))
	printCosts(w, c.costs(segments, p, frame))
	return nil
}

// readChunk fills buf with chunk i.
func (l *layer) readChunk(s *segment, i int, buf []byte) error {
	clear(buf)
	for _, r := range stretches(s.plan, i, len(buf)/ext4.BlockSize) {
		f := &l.files[r.file]
		from := int64(r.from) * ext4.BlockSize
		n := min(int64(r.count)*ext4.BlockSize, f.size-from)
		if _, err := io.ReadFull(io.NewSectionReader(l.spool, f.data+from, n), buf[r.at*ext4.BlockSize:][:n]); err != nil {
			return fmt.Errorf("read %q: %w", f.path, err)
		}
	}
	return nil
}
