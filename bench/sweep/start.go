package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/ext4"
)

// A start is the pages that one start of a program read.
type start struct {
	label string
	image string
	pages map[string][]int // path -> pages of the file
}

// A cost is what a start fetches, if it fetches whole units.
type cost struct {
	label   string
	units   int
	fetched int64 // bytes, before the codec
	needed  int64 // bytes of the pages read
}

// readStarts reads lines of label, image, path and page numbers, the first
// three ended by tabs.
func readStarts(name string) (_ []start, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var out []start
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		part := strings.SplitN(in.Text(), "\t", 4)
		if len(part) < 4 {
			return nil, fmt.Errorf("%s: line %q: want four parts", name, in.Text())
		}
		if n := len(out); n == 0 || out[n-1].label != part[0] || out[n-1].image != part[1] {
			out = append(out, start{part[0], part[1], make(map[string][]int)})
		}
		pages := out[len(out)-1].pages
		for _, word := range strings.Fields(part[3]) {
			page, err := strconv.Atoi(word)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			pages[part[2]] = append(pages[part[2]], page)
		}
	}
	return out, in.Err()
}

// costs tells how much each start touches in units of so many bytes, at most a
// chunk. The last unit of a chunk is as short as the chunk.
func (c *collection) costs(segments map[string]*segment, p point, unit int) []cost {
	var out []cost
	for i := range c.starts {
		s := &c.starts[i]
		one := cost{label: s.label}
		for l, id := range c.layers[s.image] {
			seg := segments[id]
			seen := make(map[int]bool)
			for k := range seg.plan.Pieces {
				piece := &seg.plan.Pieces[k]
				path := c.byID[id].files[piece.Entry].path
				if s.pages[path] == nil || c.hidden(s.image, l, path) {
					continue
				}
				for _, page := range s.pages[path] {
					one.needed += ext4.BlockSize
					at := (int(piece.Start) + page) * ext4.BlockSize / unit * unit
					if n := min(unit, seg.sizes[at/p.Chunk]-at%p.Chunk); n > 0 && !seen[at] {
						seen[at] = true
						one.units++
						one.fetched += int64(n)
					}
				}
			}
		}
		out = append(out, one)
	}
	return out
}

// hidden says whether a layer above layer l of the image has a file at path.
func (c *collection) hidden(image string, l int, path string) bool {
	for _, id := range c.layers[image][l+1:] {
		if c.byID[id].paths[path] {
			return true
		}
	}
	return false
}
