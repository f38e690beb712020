package layout

import (
	"hash/crc32"
	"strings"
)

// A cutter divides things that come one after the other into runs. A run ends
// when the next thing has no room in it: after that of its parts whose path has
// the lowest hash, among those that leave at least least units in it. Two rows
// of things that differ in one place are so divided alike from the first low
// hash behind it on.
type cutter struct {
	room, least uint32 // units
	fill        uint32 // units of the open run in use
	parts       []part // those in it, at most room
	tail        []byte // of the path hashed last
}

// A part is one thing of the open run.
type part struct {
	item int    // what the caller calls it
	end  uint32 // unit of the run that it ends before
	hash uint32 // of its path, if the run may end after it
}

// fits says whether the open run has room for n units more.
func (c *cutter) fits(n uint32) bool { return c.fill+n <= c.room }

// add puts n units, at most room, into the open run, which has room for them.
func (c *cutter) add(item int, n uint32, path string) {
	c.fill += n
	p := part{item: item, end: c.fill}
	if p.end >= c.least {
		c.tail = append(c.tail[:0], pathTail(path)...)
		p.hash = crc32.ChecksumIEEE(c.tail)
	}
	c.parts = append(c.parts, p)
}

// cut ends the open run, which is not empty, and returns how many units it has.
// Where several parts have the lowest hash, the first counts; where none leaves
// enough, the run has them all. What lies behind its end is moved to the
// beginning of the next run; the slice is good until the next call of add.
func (c *cutter) cut() (units uint32, moved []part) {
	last := -1
	for k, p := range c.parts {
		if p.end >= c.least && (last < 0 || p.hash < c.parts[last].hash) {
			last = k
		}
	}
	if last < 0 {
		last = len(c.parts) - 1
	}
	units = c.parts[last].end
	c.parts = c.parts[:copy(c.parts, c.parts[last+1:])]
	for k := range c.parts {
		c.parts[k].end -= units
	}
	c.fill -= units
	return units, c.parts
}

// pathTail returns the last two parts of a path: what tells a file from its
// neighbours, whatever is in it and wherever its folder lies.
func pathTail(path string) string {
	cut := strings.LastIndexByte(path, '/')
	if cut > 0 {
		cut = strings.LastIndexByte(path[:cut], '/')
	}
	return path[cut+1:]
}
