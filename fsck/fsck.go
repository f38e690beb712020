// Package fsck checks that an origin is sound: that every generation is complete
// by itself, that what is stored is whole, and that what leads somewhere leads
// to something. What is not, it can put right with good bytes from elsewhere:
// from another generation, from another origin that has the image, or, if they
// are of chunks, from a cache.
//
// It works on an origin in use. It reads pointers before objects and objects
// before chunks, the reverse of the order in which they are written, so that what
// is being published meanwhile is not taken for incomplete. It needs no key:
// block maps name their chunks in the clear. What a segment record needs is
// locked, so the chunks that only one of those needs count as unreferenced.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// Options say what is done beside looking.
type Options struct {
	Deep    bool          // read every chunk that an image needs, and check its bytes
	Repair  bool          // put right what is wrong, if good bytes are to be had
	From    origin.Origin // where they may be had beside other generations; nil: nowhere
	Cache   chunk.Reader  // where chunks may be had when no store has them; nil: nowhere
	Workers int           // chunks read at one time; 0: 16
	Tell    func(checked int)
}

// A Kind says what is wrong.
type Kind string

// The kinds of problems.
const (
	Missing  Kind = "missing"  // it is needed and not there
	Damaged  Kind = "damaged"  // it is there with other bytes than it should have
	Dangling Kind = "dangling" // it leads to what is not there
)

// A Problem is one thing that is wrong.
type Problem struct {
	Generation origin.GenerationID `json:"generation,omitempty"` // 0: of the origin as a whole
	Kind       Kind                `json:"kind"`
	What       string              `json:"what"`             // "chunk", "object", "attachments", "pointer" or "pin"
	Name       string              `json:"name"`             // its ID, digest, or pointer's name
	Needed     string              `json:"needed,omitempty"` // block map that needs it, one of them
	Reason     string              `json:"reason,omitempty"`
	Repaired   bool                `json:"repaired"`
}

// String describes the problem in one line.
func (p *Problem) String() string {
	s := fmt.Sprintf("generation %v: %s %s: %s", p.Generation, p.What, p.Name, p.Kind)
	if p.Generation == 0 {
		s = fmt.Sprintf("%s %s: %s", p.What, p.Name, p.Kind)
	}
	if p.Reason != "" {
		s += ": " + p.Reason
	}
	if p.Needed != "" {
		s += "; needed by image " + p.Needed
	}
	if p.Repaired {
		s += "; repaired"
	}
	return s
}

// A Report is what a check has found.
type Report struct {
	Generations []origin.GenerationID `json:"generations"` // that were checked
	Images      int                   `json:"images"`      // block maps
	Objects     int                   `json:"objects"`     // block maps included
	Attachments int                   `json:"attachments"`
	Pointers    int                   `json:"pointers"`
	Chunks      int                   `json:"chunks"`
	Bytes       int64                 `json:"bytes"` // of all chunks, as stored
	Read        int                   `json:"read"`  // chunks whose bytes were checked

	// Orphans are no problem: space that comes back when the generation goes.
	OrphanChunks  int                   `json:"orphan_chunks"` // that no block map of their generation names
	OrphanBytes   int64                 `json:"orphan_bytes"`
	OrphanObjects []string              `json:"orphan_objects,omitempty"` // that nothing leads to
	OrphanNotes   int                   `json:"orphan_attachments"`       // attachments of those
	Leftovers     []origin.GenerationID `json:"leftovers,omitempty"`      // not empty, and erased or in no list

	Problems []Problem          `json:"problems"`
	Alarms   []generation.Alarm `json:"alarms,omitempty"`
}

// Sound reports whether nothing is wrong, or all was repaired.
func (r *Report) Sound() bool {
	return !slices.ContainsFunc(r.Problems, func(p Problem) bool { return !p.Repaired })
}

// checker is one check under way.
type checker struct {
	origin origin.Origin
	opt    Options
	report *Report
	claims map[origin.Digest]bool // images that are pinned or marked
	donors []origin.Store         // of opt.From
}

// Check checks an origin. The error is of the check itself, not of what it found.
func Check(ctx context.Context, o origin.Origin, opt Options) (*Report, error) {
	if opt.Workers == 0 {
		opt.Workers = 16
	}
	c := &checker{origin: o, opt: opt, report: &Report{Problems: []Problem{}}, claims: map[origin.Digest]bool{}}
	if err := c.run(ctx); err != nil {
		return c.report, fmt.Errorf("check: %w", err)
	}
	return c.report, nil
}

func (c *checker) run(ctx context.Context) error {
	l, err := generation.Load(ctx, c.origin)
	if err != nil {
		return err
	}
	if c.report.Alarms, err = generation.Alarms(ctx, c.origin); err != nil {
		return err
	}
	if err := c.findDonors(ctx); err != nil {
		return err
	}
	if err := c.pointers(ctx); err != nil {
		return err
	}
	pins, err := c.readClaims(ctx)
	if err != nil {
		return err
	}
	found := map[origin.Digest]bool{}
	for _, g := range l.Readable() {
		mark := len(c.report.Problems)
		err := c.generation(ctx, g, found)
		now, loadErr := generation.Load(ctx, c.origin)
		if loadErr == nil && !now.State(g).Readable() {
			c.report.Problems = c.report.Problems[:mark] // it was deleted meanwhile
			continue
		}
		if err := errors.Join(err, loadErr); err != nil {
			return err
		}
		c.report.Generations = append(c.report.Generations, g)
	}
	for _, p := range pins {
		if !found[p.Image] {
			c.problem(Problem{Kind: Dangling, What: "pin", Name: p.Image.String()})
		}
	}
	return c.origin.ListGenerations(ctx, func(g origin.GenerationID) error {
		if s := l.State(g); s == 0 || s == generation.StateErased {
			c.report.Leftovers = append(c.report.Leftovers, g)
		}
		return nil
	})
}

func (c *checker) findDonors(ctx context.Context) error {
	if c.opt.From == nil {
		return nil
	}
	l, err := generation.Load(ctx, c.opt.From)
	if err != nil {
		return fmt.Errorf("the origin to repair from: %w", err)
	}
	for _, g := range l.Readable() {
		c.donors = append(c.donors, c.opt.From.Generation(g))
	}
	return nil
}

// pointers looks for damaged ones among those of the origin itself.
func (c *checker) pointers(ctx context.Context) error {
	return c.origin.ListPointers(ctx, "", func(name string) error {
		_, err := c.origin.GetPointer(ctx, name)
		switch {
		case errors.Is(err, origin.ErrCorrupt):
			c.problem(Problem{Kind: Damaged, What: "pointer", Name: name, Reason: err.Error()})
		case err != nil && !errors.Is(err, chunk.ErrNotFound): // removed meanwhile
			return err
		}
		return nil
	})
}

func (c *checker) readClaims(ctx context.Context) ([]generation.Pin, error) {
	pins, err := generation.Pins(ctx, c.origin)
	if err != nil {
		return nil, err
	}
	for _, p := range pins {
		c.claims[p.Image] = true
	}
	err = generation.Marks(ctx, c.origin, time.Now(), func(d origin.Digest, _ time.Time) error {
		c.claims[d] = true
		return nil
	})
	return pins, err
}

func (c *checker) problem(p Problem) { c.report.Problems = append(c.report.Problems, p) }
