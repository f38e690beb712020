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
//
// Where a small file lies is known when its bin ends, and that takes the files
// behind it. So the caller keeps the bytes of the open bin, at most a chunk:
//
//	for each file of at least one byte:
//		place = Place(file)
//		for each of place.Ended: its first Bytes bytes are chunk Index; what is
//			behind them moves to the front
//		put the file's data at place.Offset of the bin, or, if it is
//			Params.Large or more, into chunks of its own from place.Index on
//	what is left is the chunk that Open names
type Planner struct {
	packer *packer
	data   int64 // bytes of the files placed
}

// A Place says what to do with the data of one file.
type Place struct {
	// Ended are the bins that end before the file is put, mostly none and with
	// Default at most one. The slice is good until the next call of Place.
	Ended []Bin
	// Index is the chunk that the data begin in. Those of a large file have it,
	// and all that follow it to the file's end, for themselves. Those of a small
	// one are in the open bin, which has that number.
	Index uint32
	// Offset is the byte of the chunk that they begin at.
	Offset int
}

// NewPlanner returns a planner that has placed nothing.
func NewPlanner(p Params) (*Planner, error) {
	b, err := newPacker(p)
	if err != nil {
		return nil, err
	}
	return &Planner{packer: b}, nil
}

// Place places e, a File of at least one byte. e is not kept.
func (pl *Planner) Place(e *flatten.Entry) (Place, error) {
	b := pl.packer
	if len(b.pieces) == math.MaxInt32 {
		return Place{}, fmt.Errorf("layer of more than %d files: too many", len(b.pieces))
	}
	if err := b.place(uint32(len(b.pieces)), e); err != nil {
		return Place{}, err
	}
	pl.data += e.Size
	start := b.pieces[len(b.pieces)-1].Start
	return Place{Ended: b.ended, Index: start / b.perChunk, Offset: int(start%b.perChunk) * ext4.BlockSize}, nil
}

// Open returns the bin that is open, which ends with the layer; false if the
// layer has no small files.
func (pl *Planner) Open() (Bin, bool) {
	b := pl.packer
	return Bin{Index: b.start / b.perChunk, Bytes: int(b.bin.fill) * ext4.BlockSize}, b.open
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
