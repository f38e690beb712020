package layout

import (
	"fmt"
	"math"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
)

// A Planner places the files of a layer one by one, while the layer is read,
// where PlanSegment would: as long as they come in the order of the layer's
// entries. Whether they did is known in the end, and Segment tells. A Planner
// belongs to one goroutine.
type Planner struct {
	packer *packer
	data   int64 // bytes of the files placed
}

// NewPlanner returns a planner that has placed nothing.
func NewPlanner(p Params) (*Planner, error) {
	b, err := newPacker(p)
	if err != nil {
		return nil, err
	}
	return &Planner{packer: b}, nil
}

// Place returns where the data of e, a File of at least one byte, begin: the
// chunk of the segment and the byte in it. A file smaller than Params.Large
// lies in that chunk alone, a bin, which holds further files behind it and is
// complete when Place names another bin or the layer ends. A larger file has
// the chunk and all that follow it to its end for itself. e is not kept.
func (pl *Planner) Place(e *flatten.Entry) (index uint32, offset int, err error) {
	b := pl.packer
	if len(b.pieces) == math.MaxInt32 {
		return 0, 0, fmt.Errorf("layer of more than %d files: too many", len(b.pieces))
	}
	if err := b.place(uint32(len(b.pieces)), e); err != nil {
		return 0, 0, err
	}
	pl.data += e.Size
	start := b.pieces[len(b.pieces)-1].Start
	return start / b.perChunk, int(start%b.perChunk) * ext4.BlockSize, nil
}

// Segment returns PlanSegment(entries) if these have the files that were
// placed, in that order, at the same places and with their data one after the
// other from 0 on; otherwise nil.
func (pl *Planner) Segment(entries []flatten.Entry) (*Segment, error) {
	b, err := pack(entries, pl.packer.params)
	if err != nil {
		return nil, err
	}
	placed := pl.packer.pieces
	if len(b.pieces) != len(placed) {
		return nil, nil
	}
	data := int64(0)
	for i, p := range b.pieces {
		e := &entries[p.Entry]
		if e.Data != data || p.Start != placed[i].Start || p.Count != placed[i].Count {
			return nil, nil
		}
		data += e.Size
	}
	if data != pl.data {
		return nil, nil
	}
	return b.segment(), nil
}
