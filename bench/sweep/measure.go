package main

import (
	"crypto/sha256"
	"strings"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/layout"
)

// A stretch is blocks of a file that lie in one chunk.
type stretch struct {
	file, from, count int
	at                int // block of the chunk
}

type chunkID [sha256.Size]byte

// A segment is the chunks of a layer, in order; those of zeros have size 0.
type segment struct {
	ids   []chunkID
	sizes []int // bytes, trailing zeros cut off
	plan  *layout.Segment
}

// cut computes the chunks that the layer has at p.
func cut(files []file, p point) (*segment, error) {
	plan, err := plan(files, p)
	if err != nil {
		return nil, err
	}
	s := &segment{ids: make([]chunkID, plan.Chunks), sizes: make([]int, plan.Chunks), plan: plan}
	per := p.Chunk / ext4.BlockSize
	blocks := make([]byte, per*len(sum{}))
	for i := range s.ids {
		clear(blocks)
		end, size := 0, 0 // of what is not zero: in blocks, in bytes
		for _, r := range stretches(plan, i, per) {
			f := &files[r.file]
			for k := range r.count {
				if f.last[r.from+k] == 0 {
					continue
				}
				copy(blocks[(r.at+k)*len(sum{}):], f.blocks[r.from+k][:])
				end, size = r.at+k+1, (r.at+k)*ext4.BlockSize+int(f.last[r.from+k])
			}
		}
		s.sizes[i] = size
		if size > 0 {
			s.ids[i] = sha256.Sum256(blocks[:end*len(sum{})])
		}
	}
	return s, nil
}

// stretches returns what lies in chunk i.
func stretches(plan *layout.Segment, i, per int) []stretch {
	var out []stretch
	for _, p := range plan.PiecesOf(uint32(i)) {
		start, end := max(int(p.Start), i*per), min(int(p.Start+p.Count), (i+1)*per)
		out = append(out, stretch{file: int(p.Entry), from: start - int(p.Start), count: end - start, at: start - i*per})
	}
	return out
}

// figures are what one layout comes to. Shares are of data chunks, in one.
type figures struct {
	point
	unique   float64            // bytes of distinct chunks over bytes of distinct files
	mean     float64            // bytes of a chunk
	count    int                // distinct chunks
	address  float64            // bytes of slots over bytes of files
	renewed  map[string]float64 // share that NAME adds to NAME-old
	packages map[string]float64 // share that one package more adds
	fresh    []int              // chunks that changes of one small file made new, sorted
	starts   []cost
}

// updatedImages are those that the project has a bound for.
var updatedImages = []string{"python3", "nginx", "postgres", "python3-numpy", "nodejs"}

// changedImage has a layer with many small files: its second from the top.
const changedImage = "node-npm"

func (c *collection) measureAll(points []point) ([]figures, error) {
	out := make([]figures, len(points))
	for i, p := range points {
		var err error
		if out[i], err = c.measure(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *collection) measure(p point) (figures, error) {
	f := figures{point: p}
	segments, err := c.cutAll(p)
	if err != nil {
		return f, err
	}
	c.unique(&f, segments)
	c.updated(&f, segments)
	f.starts = c.costs(segments, p, p.Chunk)
	if err := c.added(&f, segments); err != nil {
		return f, err
	}
	return f, c.changed(&f, segments)
}

// cutAll computes the chunks of all layers.
func (c *collection) cutAll(p point) (map[string]*segment, error) {
	out := make(map[string]*segment, len(c.byID))
	for id, l := range c.byID {
		s, err := cut(l.files, p)
		if err != nil {
			return nil, err
		}
		out[id] = s
	}
	return out, nil
}

// current returns the diff IDs of all images that are no older ones.
func (c *collection) current() map[string]bool {
	out := make(map[string]bool)
	for name, ids := range c.layers {
		if !strings.HasSuffix(name, "-old") {
			for _, id := range ids {
				out[id] = true
			}
		}
	}
	return out
}

// unique compares distinct chunks to distinct files, each rounded up to 4 KiB.
func (c *collection) unique(f *figures, segments map[string]*segment) {
	chunks, contents := make(map[chunkID]bool), make(map[[sha256.Size]byte]bool)
	var chunkBytes, fileBytes, all, slots int64
	for id := range c.current() {
		s := segments[id]
		for i, sum := range s.ids {
			if s.sizes[i] > 0 && !chunks[sum] {
				chunks[sum] = true
				chunkBytes += int64(s.sizes[i])
			}
		}
		slots += slot(len(s.ids)) * int64(f.Chunk)
		for i := range c.byID[id].files {
			one := &c.byID[id].files[i]
			rounded := int64(len(one.blocks)) * ext4.BlockSize
			all += rounded
			if !contents[one.id] {
				contents[one.id] = true
				fileBytes += rounded
			}
		}
	}
	f.unique = float64(chunkBytes) / float64(fileBytes)
	f.mean = float64(chunkBytes) / float64(len(chunks))
	f.count = len(chunks)
	f.address = float64(slots) / float64(all)
}

// slot is the room that layout gives a segment of n chunks.
func slot(n int) int64 {
	q := 16
	for q < n+n/8 {
		q *= 2
	}
	return int64(q)
}

// chunks returns the distinct chunks of an image.
func (c *collection) chunks(name string, segments map[string]*segment) map[chunkID]bool {
	out := make(map[chunkID]bool)
	for _, id := range c.layers[name] {
		segments[id].into(out)
	}
	return out
}

func (s *segment) into(set map[chunkID]bool) {
	for i, id := range s.ids {
		if s.sizes[i] > 0 {
			set[id] = true
		}
	}
}

// missing counts the chunks of set that known lacks.
func missing(set, known map[chunkID]bool) int {
	n := 0
	for id := range set {
		if !known[id] {
			n++
		}
	}
	return n
}

func (c *collection) updated(f *figures, segments map[string]*segment) {
	f.renewed = make(map[string]float64)
	for _, name := range c.images {
		if _, ok := c.layers[name+"-old"]; ok {
			set := c.chunks(name, segments)
			f.renewed[name] = float64(missing(set, c.chunks(name+"-old", segments))) / float64(len(set))
		}
	}
}
