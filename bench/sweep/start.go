package main

import "github.com/rivuletfs/rivulet/ext4"

// A cost is what a start fetches, if it fetches whole units.
type cost struct {
	label   string
	units   int
	fetched int64 // bytes, before the codec
	needed  int64 // bytes of the pages read
}

// costs tells how much each start touches in units of so many bytes, at most a
// chunk. The last unit of a chunk is as short as the chunk.
func (c *collection) costs(segments map[string]*segment, p point, unit int) []cost {
	var out []cost
	for i := range c.starts {
		s := &c.starts[i]
		one := cost{label: s.Label}
		for l, id := range c.layers[s.Image] {
			seg := segments[id]
			seen := make(map[int]bool)
			for k := range seg.plan.Pieces {
				piece := &seg.plan.Pieces[k]
				path := c.byID[id].files[piece.Entry].path
				if s.Pages[path] == nil || c.hidden(s.Image, l, path) {
					continue
				}
				for _, page := range s.Pages[path] {
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
