//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/bench/touched"
	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/verify"
)

func (c *census) printCosts(w io.Writer) {
	var gzip int64
	for _, n := range c.gzip {
		gzip += n
	}
	gib := float64(c.plain) / (1 << 30)
	fmt.Fprintf(w, "\n### Sealing, opening, storing\n\n%d images, %d distinct chunks, %.2f GiB. Layers: %.1f MB, images singly; %.1f MB, each once.\n\n",
		len(c.maps), len(c.chunks), gib, float64(c.gzips)/1e6, float64(gzip)/1e6)
	fmt.Fprint(w, "| codec | seal, CPU s/GiB | open, CPU s/GiB | stored, MB | of plain | raw chunks | over layers, singly | over layers, each once |\n|", " --- |", strings.Repeat(" ---: |", 7), "\n")
	for l, t := range c.totals {
		fmt.Fprintf(w, "| %s | %.2f | %.2f | %.1f | %.3f | %.1f %% | %.3f | %.3f |\n", levels[l].name, t.seal.Seconds()/gib, t.open.Seconds()/gib,
			float64(t.stored)/1e6, float64(t.stored)/float64(c.plain), 100*float64(t.raw)/float64(len(c.chunks)),
			float64(c.singly[l])/float64(c.gzips), float64(t.stored)/float64(gzip))
	}
}

// A fetch is what one start fetches and opens at one level.
type fetch struct {
	bytes int64
	open  time.Duration
}

// seconds is the least time of a fetch over a link of so many bits a second.
func (f fetch) seconds(bits float64) float64 { return float64(f.bytes)*8/bits + f.open.Seconds() }

var links = []struct {
	name string
	bits float64
}{{"100 Mbit/s", 1e8}, {"1 Gbit/s", 1e9}, {"10 Gbit/s", 1e10}}

// printStarts prints what each start fetches: if by the frame, and if by the
// chunk.
func (c *census) printStarts(ctx context.Context, w io.Writer, starts []touched.Start) error {
	for _, whole := range []bool{false, true} {
		if len(starts) == 0 {
			return nil
		}
		unit := "frames"
		if whole {
			unit = "chunks"
		}
		fmt.Fprintf(w, "\n### Cold starts that fetch whole %s\n\n| start | over | layers |", unit)
		for _, l := range levels {
			fmt.Fprintf(w, " %s |", l.name)
		}
		fmt.Fprint(w, "\n| --- | --- |", strings.Repeat(" ---: |", 1+len(levels)), "\n")
		for i := range starts {
			if err := c.printStart(ctx, w, &starts[i], whole); err != nil {
				return fmt.Errorf("start %s: %w", starts[i].Label, err)
			}
		}
	}
	return nil
}

func (c *census) printStart(ctx context.Context, w io.Writer, s *touched.Start, whole bool) error {
	m := c.maps[s.Image]
	if m == nil {
		return fmt.Errorf("image %s is not in the store", s.Image)
	}
	places, err := c.framesOf(ctx, m, s)
	if err != nil {
		return err
	}
	fetches := c.fetches(m, places, whole)
	var layers int64
	for _, l := range m.Layers() {
		layers += l.CompressedSize
	}
	fmt.Fprintf(w, "| %s | MB | %.1f |", s.Label, float64(layers)/1e6)
	for _, f := range fetches {
		fmt.Fprintf(w, " %.2f |", float64(f.bytes)/1e6)
	}
	for _, link := range links {
		fmt.Fprintf(w, "\n| | %s, s | %.2f |", link.name, float64(layers)*8/link.bits)
		for _, f := range fetches {
			fmt.Fprintf(w, " %.3f |", f.seconds(link.bits))
		}
	}
	fmt.Fprintln(w)
	return nil
}

// framesOf returns the frames of the disk that hold the pages, by chunk index.
func (c *census) framesOf(ctx context.Context, m *blockmap.Map, s *touched.Start) (map[uint32]map[int]bool, error) {
	plain, err := verify.NewPlain(ctx, m, c.store)
	if err != nil {
		return nil, err
	}
	defer func() { _ = plain.Close() }() // frees memory, no more
	fsys, err := ext4.Open(plain, m.Size())
	if err != nil {
		return nil, err
	}
	info, out := m.Info(), make(map[uint32]map[int]bool)
	for path, pages := range s.Pages {
		extents, err := fsys.Extents(path)
		if err != nil {
			return nil, err
		}
		for _, page := range pages {
			for _, e := range extents {
				if page < int(e.Logical) || page >= int(e.Logical+e.Count) {
					continue
				}
				at := (int64(e.Start) + int64(page) - int64(e.Logical)) * ext4.BlockSize
				index := uint32(at >> info.ChunkLog2)
				if out[index] == nil {
					out[index] = make(map[int]bool)
				}
				out[index][int(at&(1<<info.ChunkLog2-1)>>info.FrameLog2)] = true
			}
		}
	}
	return out, nil
}

// fetches adds up, by level, the frames at places, or the whole of their chunks.
func (c *census) fetches(m *blockmap.Map, places map[uint32]map[int]bool, whole bool) []fetch {
	out := make([]fetch, len(levels))
	for index, touched := range places {
		e, ok := m.Lookup(index)
		if !ok {
			continue // zeros
		}
		for l, one := range c.chunks[e.ID] {
			out[l].bytes += int64(one.stored)
			for i, f := range one.frames {
				switch {
				case whole || touched[i]:
					out[l].open += f.open
				default:
					out[l].bytes -= int64(f.stored)
				}
			}
		}
	}
	return out
}
