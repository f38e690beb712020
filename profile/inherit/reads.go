package inherit

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/profile"
)

// A Read is what somebody reads of a file: all of it, or, if there are Ranges, those.
type Read struct {
	Path   string        // as fs.FS has it
	At     time.Duration // since the start began
	Ranges [][2]int64    // offset and length in bytes
}

// Reads returns a profile of starts of the image that read these files: what the image
// starts by itself, counted as [Starts]. What the disk does not have is left out; of
// nothing, the error is ErrNothing.
func Reads(ctx context.Context, d Disk, reads []Read) (*profile.Profile, error) {
	p, err := ofReads(ctx, d, reads)
	if err != nil {
		return nil, fmt.Errorf("make a profile of image %v: %w", d.Map.Digest(), err)
	}
	return p, nil
}

func ofReads(ctx context.Context, d Disk, reads []Read) (*profile.Profile, error) {
	fsys, err := d.Files(ctx)
	if err != nil {
		return nil, err
	}
	t := &translator{new: profile.GeometryOf(d.Map), newFiles: fsys, found: make(map[profile.Frame]*profile.Entry)}
	look := &files{fsys: fsys}
	p := &profile.Profile{Image: d.Map.Digest(), Starts: Starts}
	block := int64(fsys.BlockSize())
	for _, r := range reads {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		f, err := look.find(r.Path)
		if err != nil {
			return nil, err
		}
		if f == nil {
			continue
		}
		at := min(max(r.At, 0), profile.MaxTime).Truncate(time.Microsecond)
		e := &profile.Entry{Starts: Starts, At: at}
		ranges := r.Ranges
		if len(ranges) == 0 {
			ranges = [][2]int64{{0, math.MaxInt64}}
		}
		for _, x := range f.extents {
			begin, end := int64(x.Logical)*block, (int64(x.Logical)+int64(x.Count))*block
			for _, part := range ranges {
				if err := ctx.Err(); err != nil { // each may be all of the disk
					return nil, context.Cause(ctx)
				}
				from, to := max(begin, part[0]/block*block), end
				if part[1] < end-part[0] {
					to = min(end, (part[0]+part[1]+block-1)/block*block)
				}
				if from < to {
					t.addBlocks(x.Start+uint64(from-begin)/uint64(block), uint64(to-from)/uint64(block), e)
				}
			}
		}
		p.Length = max(p.Length, at)
	}
	if len(t.found) == 0 {
		return nil, ErrNothing
	}
	for _, e := range t.found {
		p.Entries = append(p.Entries, *e)
	}
	p.Arrange()
	p.Entries = slices.Clip(p.Entries)
	return p, nil
}
