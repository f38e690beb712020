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

// A cost is what a start fetches, if it fetches whole chunks.
type cost struct {
	label   string
	chunks  int
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

// costs tells which chunks each start touches.
func (c *collection) costs(segments map[string]*segment, p point) []cost {
	var out []cost
	for _, s := range c.starts {
		one := cost{label: s.label}
		place := make(map[string][2]int) // path -> layer, index of its piece
		ids := c.layers[s.image]
		for l, id := range ids {
			for k, piece := range segments[id].plan.Pieces {
				path := c.byID[id].files[piece.Entry].path
				if s.pages[path] != nil {
					place[path] = [2]int{l, k}
				}
			}
		}
		seen := make(map[[2]int]bool)
		for path, pages := range s.pages {
			at, ok := place[path]
			if !ok {
				continue // a further name of a file, or made by the start
			}
			seg := segments[ids[at[0]]]
			for _, page := range pages {
				i := (int(seg.plan.Pieces[at[1]].Start) + page) / (p.Chunk / ext4.BlockSize)
				one.needed += ext4.BlockSize
				if key := [2]int{at[0], i}; !seen[key] && seg.sizes[i] > 0 {
					seen[key] = true
					one.chunks++
					one.fetched += int64(seg.sizes[i])
				}
			}
		}
		out = append(out, one)
	}
	return out
}
