// Package profile is the memory of starts: which frames of a disk a start read, in
// which order, and what its readers waited for.
//
// A [Recording] is one start. A [Profile] is what several starts of one image and
// workload have in common, in the order in which the next is likely to read. It is
// advice and no more: whoever follows a wrong one fetches what nobody needs, within
// a budget, and never serves a wrong byte, for what it names is frames of one block
// map and everything that is fetched passes the door. So it needs no signature.
package profile

import (
	"time"

	"github.com/rivuletfs/rivulet/origin"
)

// A Frame is a frame of a disk, by where its chunk stands in the block map
// (blockmap.Map.Chunk) and which of the chunk's frames it is.
type Frame struct {
	Chunk  uint32
	Number uint16
}

// A Touch is the first read of a frame in a start.
type Touch struct {
	Frame
	At     time.Duration // since the start began
	Waited time.Duration // that readers waited for it; 0: it was at hand
}

// A Recording is one start of an image.
type Recording struct {
	Image    origin.Digest // of the block map
	Workload string        // what was started; "" is what the image starts by itself
	Length   time.Duration // until the start was over
	Touches  []Touch       // each frame once, in the order of At
}

// An Entry is a frame of a profile.
type Entry struct {
	Frame
	Starts uint32        // in how many of the profile's starts it was read
	At     time.Duration // when, on average over those
	Waited time.Duration // that readers waited for it, on average over those
}

// A Profile is what starts of an image had in common.
type Profile struct {
	Image    origin.Digest // of the block map
	Workload string        // as of the recordings
	Starts   uint32        // how many were merged
	Length   time.Duration // of the longest of them
	Entries  []Entry       // each frame once, in the order in which to fetch

	// Headers are those of chunks that the start will need, by rising place, each once: of
	// all or some that Entries name, and of others near them. Who has a chunk's header can
	// ask for its frames at once.
	Headers []Header

	// Predicted says that nobody has started the image yet: this is what its files say that a
	// start will read. It counts as one start until there is one, and then for nothing.
	Predicted bool
}

// A Step is what to fetch of a chunk in one go.
type Step struct {
	Chunk  uint32   // its place in the block map's table
	Frames []uint16 // in the profile's order
}

// Plan returns what to fetch, in order: the frames of a chunk together, with the first of
// them, and rare ones not at all.
func (p *Profile) Plan() []Step {
	var plan []Step
	at := make(map[uint32]int)
	for i := range p.Entries {
		e := &p.Entries[i]
		if p.Rare(e) {
			continue
		}
		n, ok := at[e.Chunk]
		if !ok {
			n = len(plan)
			at[e.Chunk] = n
			plan = append(plan, Step{Chunk: e.Chunk})
		}
		plan[n].Frames = append(plan[n].Frames, e.Number)
	}
	return plan
}
