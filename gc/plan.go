package gc

import (
	"context"
	"fmt"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A Plan says what the next runs would do, and why.
type Plan struct {
	Generations []Planned          `json:"generations"`
	Images      []PlannedImage     `json:"images"`           // that are wanted
	Broken      []string           `json:"broken,omitempty"` // names that hold no digest, or are damaged
	Alarms      []generation.Alarm `json:"alarms,omitempty"` // which stop all deletion
}

// A Planned is a generation in a Plan.
type Planned struct {
	generation.Entry
	Next      string     `json:"next"`          // what happens to it next
	Due       *time.Time `json:"due,omitempty"` // when; a past time means in the next run
	Images    int        `json:"images"`        // that it holds
	Chunks    int        `json:"chunks"`
	Bytes     int64      `json:"bytes"`
	Unwanted  []string   `json:"unwanted,omitempty"` // block maps of images that will go with it
	GoChunks  int        `json:"go_chunks"`          // that no wanted image needs
	GoBytes   int64      `json:"go_bytes"`
	CopyBytes int64      `json:"copy_bytes"` // of wanted images that the active generation lacks, at most
}

// A PlannedImage is a wanted image in a Plan.
type PlannedImage struct {
	BlockMap string                `json:"block_map"`
	Why      Want                  `json:"why"`
	In       []origin.GenerationID `json:"in"`                 // newest first; none: it is lost
	Profiles int                   `json:"profiles,omitempty"` // workloads whose starts are remembered; they go where it goes
}

// Plan says what the next runs would do. It reads every block map, and changes
// nothing.
func (c *Collector) Plan(ctx context.Context) (*Plan, error) {
	w, err := c.scan(ctx, generation.StateExpired)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	p := &Plan{}
	if p.Alarms, err = generation.Alarms(ctx, c.Origin); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	for name := range w.broken {
		p.Broken = append(p.Broken, name)
	}
	in := map[origin.Digest][]origin.GenerationID{}
	for i := len(w.list) - 1; i >= 0; i-- {
		g, err := c.planOne(ctx, w, w.list[i], in)
		if err != nil {
			return nil, fmt.Errorf("plan: generation %v: %w", w.list[i].ID, err)
		}
		p.Generations = append(p.Generations, *g)
	}
	workloads, err := c.workloads(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	for _, d := range w.sorted() {
		p.Images = append(p.Images, PlannedImage{BlockMap: d.String(), Why: *w.images[d], In: in[d], Profiles: len(workloads[d])})
	}
	return p, nil
}

// workloads returns which workloads of the wanted images have profiles, in whatever
// generation.
func (c *Collector) workloads(ctx context.Context, w *wanted) (map[origin.Digest]map[string]bool, error) {
	found := map[origin.Digest]map[string]bool{}
	for _, g := range w.list.Readable() {
		err := c.Origin.Generation(g).ListPointers(ctx, catalog.ProfilesPrefix, func(key string) error {
			d, workload, err := catalog.ParseProfileKey(key)
			if err != nil || w.images[d] == nil {
				return nil // fsck tells what is damaged
			}
			if found[d] == nil {
				found[d] = map[string]bool{}
			}
			found[d][workload] = true
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("generation %v: %w", g, err)
		}
	}
	return found, nil
}

// planOne plans a generation. in says which newer generations have which images,
// and is added to.
func (c *Collector) planOne(ctx context.Context, w *wanted, e generation.Entry, in map[origin.Digest][]origin.GenerationID) (*Planned, error) {
	p := &Planned{Entry: e}
	c.next(p)
	if e.State == generation.StateErased {
		return p, nil
	}
	stays := map[chunk.ID]bool{} // needed by a wanted image
	carry := map[chunk.ID]bool{} // and in the active generation perhaps not there
	err := c.maps(ctx, e.ID, func(m *blockmap.Map) {
		d := m.Digest()
		p.Images++
		if w.images[d] == nil {
			p.Unwanted = append(p.Unwanted, d.String())
			return
		}
		in[d] = append(in[d], e.ID)
		for i := range m.Len() {
			stays[m.Chunk(i).ID] = true
			if in[d][0] != w.list.Active() {
				carry[m.Chunk(i).ID] = true
			}
		}
	})
	if err != nil {
		return nil, err
	}
	err = c.Origin.Generation(e.ID).List(ctx, func(id chunk.ID, size int64) error {
		p.Chunks++
		p.Bytes += size
		if !stays[id] {
			p.GoChunks++
			p.GoBytes += size
		}
		if carry[id] {
			p.CopyBytes += size
		}
		return nil
	})
	return p, err
}

// next says what happens to a generation, and when.
func (c *Collector) next(p *Planned) {
	after := func(what string, d time.Duration) {
		t := p.Since.Add(d)
		p.Next, p.Due = what, &t
	}
	switch p.State {
	case generation.StateActive:
		after("a new generation takes its place", c.Policy.New)
	case generation.StateRetired:
		after("it expires, when all that is wanted has been copied to the active generation", c.Policy.Retired)
	case generation.StateExpired:
		after("it is deleted, unless an alarm is raised", c.Policy.Soak)
	case generation.StateDeleted:
		p.Next = "its deletion is completed"
	case generation.StateErased:
		after("it is forgotten", c.Policy.Forget)
	}
}
