package main

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/seal"
)

// printFrames compares frame sizes, and chunk sizes at the default frame, by
// coding one of n chunks.
func (c *collection) printFrames(w io.Writer, n int) error {
	fmt.Fprintf(w, "\n### Frames\n\nOne of %d chunks, chosen by digest, coded and sealed.\n\n", n)
	fmt.Fprintln(w, "| chunk | frame | chunks coded | MB | stored MB | stored |")
	fmt.Fprintln(w, "| ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, kib := range [][2]int{{512, 16}, {512, 32}, {512, 64}, {512, 128}, {512, 256}, {128, 64}, {256, 64}, {1024, 64}} {
		p := point{Params: layout.Default}
		if p.Chunk = kib[0] << 10; p.Chunk < layout.Default.Chunk {
			p.Large, p.MinBin = p.Chunk/2, p.Chunk/2
		}
		if err := c.frames(w, p, kib[1]<<10, n); err != nil {
			return err
		}
	}
	return nil
}

func (c *collection) frames(w io.Writer, p point, frame, n int) error {
	sealer, err := seal.NewSealer(seal.Options{ChunkSize: p.Chunk, FrameSize: frame})
	if err != nil {
		return err
	}
	seen := make(map[chunkID]bool)
	buf := make([]byte, p.Chunk)
	var plain, stored int64
	for id := range c.current() {
		l := c.byID[id]
		s, err := cut(l.files, p)
		if err != nil {
			return err
		}
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
	fmt.Fprintf(w, "| %d KiB | %d KiB | %d | %.1f | %.1f | %.1f %% |\n", p.Chunk>>10, frame>>10, len(seen),
		float64(plain)/1e6, float64(stored)/1e6, 100*float64(stored)/float64(plain))
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
