package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/profile/predict"
	"github.com/rivuletfs/rivulet/vm"
)

// predictTime bounds what publish spends on a prediction: nobody waits for more.
const predictTime = 30 * time.Second

// predictMemory is what a prediction keeps of a disk that is near, in bytes: what is looked
// through lies together as a rule, and more would add to the most that publishing takes.
const predictMemory = 32 << 20

// A predicted tells of a profile that was predicted.
type predicted struct {
	Image    string           `json:"image"` // digest of its block map
	Version  string           `json:"version,omitempty"`
	Frames   int              `json:"frames"`
	Bytes    int64            `json:"bytes"` // that these take in the store, about
	Compared *comparedProfile `json:"compared,omitempty"`
}

// A comparedProfile says how a prediction would have done, by what starts have read.
// Frames that come with the image's metadata are left out.
type comparedProfile struct {
	Read      int            `json:"read"`       // frames that starts have read
	ReadBytes int64          `json:"read_bytes"` // that these take in the store, about
	Hit       int            `json:"hit"`        // of them, those that are predicted
	HitBytes  int64          `json:"hit_bytes"`
	Files     []comparedFile `json:"files,omitempty"`
}

// A comparedFile is what was read and predicted of one file, in frames.
type comparedFile struct {
	Path      string `json:"path"`
	Read      int    `json:"read"`
	Predicted int    `json:"predicted"`
	Hit       int    `json:"hit"`
}

func (a *app) profilePredictCommand() *cobra.Command {
	var try, files, asJSON bool
	cmd := &cobra.Command{
		Use:   "predict IMAGE",
		Short: "Say what an image's first start will read, without starting it",
		Long: `Predict follows the image's own command through its files: interpreters, libraries,
what scripts name, modules. What that comes to is kept as the profile of a workload that
nobody has started yet, and counts no more as soon as somebody has. Publishing does this
by itself; see --predict of 'rivulet publish'.

With --try nothing is kept; what starts have read, if there is a profile of them, is
compared with what would have been predicted.`,
		Example: `  rivulet profile predict nginx
  rivulet profile predict nginx --try --files`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if files && !try {
				return usagef("--files are shown with --try")
			}
			ctx := cmd.Context()
			o, err := a.openOrigin(ctx, false)
			if err != nil {
				return err
			}
			var r *predicted
			if try {
				r, err = a.tryPrediction(ctx, o, args[0], files)
			} else {
				r, err = a.predict(ctx, o, args[0])
			}
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(r)
			}
			return a.showPredicted(r)
		},
	}
	cmd.Flags().BoolVar(&try, "try", false, "keep nothing, and compare with what starts have read")
	cmd.Flags().BoolVar(&files, "files", false, "with --try: of each file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func (a *app) showPredicted(r *predicted) error {
	a.printf("predicted %d frames, %s\n", r.Frames, size(r.Bytes))
	c := r.Compared
	if c == nil {
		return nil
	}
	a.printf("starts read %d frames, %s; of these %s of the frames and %s of the bytes are predicted\n",
		c.Read, size(c.ReadBytes), percent(int64(c.Hit), int64(c.Read)), percent(c.HitBytes, c.ReadBytes))
	if c.Files == nil {
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "READ\tPREDICTED\tBOTH\t FILE")
	for _, f := range c.Files {
		fmt.Fprintf(w, "%d\t%d\t%d\t %s\n", f.Read, f.Predicted, f.Hit, printable(f.Path))
	}
	return w.Flush()
}

// A foresight is a prediction, and the open disk of its image.
type foresight struct {
	image  *host.Image
	disk   *host.Disk
	files  *ext4.FS
	p      *profile.Profile
	chunks []uint32 // that the start needs frames of, or may
}

func (f *foresight) close() { _ = f.disk.Close() }

// foresee predicts the start of an image.
func (a *app) foresee(ctx context.Context, view *generation.View, ref string) (*foresight, error) {
	image, err := a.open(ctx, view, ref)
	if err != nil {
		return nil, err
	}
	process, err := vm.Process(image.Unlocked.Info().Config, "", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	near, memory := a.near(), int64(oneShotMemory)
	if near {
		memory = predictMemory
	}
	d, err := a.openDiskIn(ctx, image, ref, memory)
	if err != nil {
		return nil, err
	}
	f := &foresight{image: image, disk: d}
	reader := &readAhead{ReaderAt: d, ctx: ctx}
	var device predict.Device
	if !near { // else it would decode far more than is read
		reader.device, device = d, d
	}
	f.files, err = ext4.Open(reader, d.Size())
	if err == nil {
		f.p, f.chunks, err = predict.Profile(ctx, image.Map, f.files, device, predict.Start{Args: process.Args, Env: process.Env, Dir: process.Dir}, "")
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	return f, nil
}

// predict predicts the start of an image, and keeps that as its profile, unless there is a
// better one.
func (a *app) predict(ctx context.Context, o origin.Origin, ref string) (*predicted, error) {
	f, err := a.foresee(ctx, a.view(o), ref)
	if err != nil {
		return nil, err
	}
	defer f.close()
	headers, err := f.disk.Headers(ctx, f.chunks)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", ref, err)
	}
	f.p.AddHeaders(headers)
	d, err := generation.AddProfile(ctx, o, f.p)
	if err != nil {
		return nil, err
	}
	r := tell(f.image.Map, f.p)
	r.Version = d.String()
	return r, nil
}

// tell tells of a prediction for the disk of a block map.
func tell(m *blockmap.Map, p *profile.Profile) *predicted {
	g := profile.GeometryOf(m)
	r := &predicted{Image: p.Image.String(), Frames: len(p.Entries)}
	for i := range p.Entries {
		r.Bytes += g.Coded(p.Entries[i].Frame)
	}
	return r
}

// tryPrediction predicts the start of an image, and compares that with what starts have
// read.
func (a *app) tryPrediction(ctx context.Context, o origin.Origin, ref string, files bool) (*predicted, error) {
	view := a.view(o)
	f, err := a.foresee(ctx, view, ref)
	if err != nil {
		return nil, err
	}
	defer f.close()
	r := tell(f.image.Map, f.p)
	p, err := view.Profile(ctx, f.p.Image, "")
	switch {
	case errors.Is(err, chunk.ErrNotFound), errors.Is(err, catalog.ErrProfile):
		return r, nil
	case err == nil:
		err = p.Fits(f.image.Map)
	}
	if err != nil || p.Predicted {
		return r, err
	}
	r.Compared, err = f.compare(ctx, p, files)
	return r, err
}

// owners returns what frames hold.
func (f *foresight) owners(ctx context.Context, g profile.Geometry, frames []profile.Frame) (all []ext4.Owner, err error) {
	block := int64(f.files.BlockSize())
	per := g.FrameBytes() / block
	for some := range slices.Chunk(frames, int(ext4.MaxOwned/per)) {
		ranges := make([]ext4.Range, len(some))
		for i, at := range some {
			ranges[i] = ext4.Range{Start: uint64(g.Offset(at) / block), Count: uint64(per)}
		}
		list, err := f.files.Owners(ctx, ranges)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// compare compares with the profile of starts, file by file if that is wanted.
func (f *foresight) compare(ctx context.Context, p *profile.Profile, files bool) (*comparedProfile, error) {
	g := profile.GeometryOf(f.image.Map)
	const read, told = 1, 2
	frames := make(map[profile.Frame]int)
	for _, want := range packWants(f.image.Map, p) {
		for _, n := range want.Frames {
			frames[profile.Frame{Chunk: uint32(want.Pos), Number: n}] |= read
		}
	}
	for i := range f.p.Entries {
		frames[f.p.Entries[i].Frame] |= told
	}
	c := &comparedProfile{}
	for at, what := range frames {
		if what&read != 0 {
			c.Read++
			c.ReadBytes += g.Coded(at)
		}
		if what == read|told {
			c.Hit++
			c.HitBytes += g.Coded(at)
		}
	}
	if !files {
		return c, nil
	}
	owners, err := f.owners(ctx, g, slices.SortedFunc(maps.Keys(frames), func(a, b profile.Frame) int { return cmp.Compare(g.Offset(a), g.Offset(b)) }))
	if err != nil {
		return nil, err
	}
	block := int64(f.files.BlockSize())
	// A frame counts for the file that has most of it.
	owner, most := make(map[profile.Frame]string), make(map[profile.Frame]int64)
	for i := range owners {
		o := &owners[i]
		end := int64(o.Start+o.Count) * block
		for off := int64(o.Start) * block; off < end; {
			next := min(end, off+g.FrameBytes()-off%g.FrameBytes())
			if at, ok := g.At(off); ok && next-off > most[at] {
				owner[at], most[at] = cmp.Or(o.Path, o.Use.String()), next-off
			}
			off = next
		}
	}
	sums := make(map[string]*comparedFile)
	for at, what := range frames {
		name := owner[at]
		s := sums[name]
		if s == nil {
			s = &comparedFile{Path: name}
			sums[name] = s
		}
		s.Read += what & read
		s.Predicted += what & told / told
		s.Hit += what / (read | told)
	}
	for _, s := range sums {
		c.Files = append(c.Files, *s)
	}
	slices.SortFunc(c.Files, func(a, b comparedFile) int { return cmp.Compare(a.Path, b.Path) })
	return c, nil
}
