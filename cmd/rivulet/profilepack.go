package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
	"github.com/rivuletfs/rivulet/profile"
)

// A packed tells of a start pack that was made.
type packed struct {
	Image    string `json:"image"` // digest of its block map
	Workload string `json:"workload"`
	Frames   int    `json:"frames"`
	Bytes    int64  `json:"bytes"`
	Parts    int    `json:"parts"` // objects that it is in
}

func (a *app) profilePackCommand() *cobra.Command {
	var flags profileFlags
	var remove, asJSON bool
	cmd := &cobra.Command{
		Use:   "pack IMAGE",
		Short: "Put what starts of an image read into a start pack",
		Long: `Pack puts the frames of a profile, in its order, into a few objects beside the image: the
start pack. A start from a far store then asks for these, as soon as it knows the image,
and not for each chunk. It takes as much of the store as the start reads, so it is made
where that is worth it, when the profile has settled; made again, it takes the place of
the one before. Starts of a near store, and those through a host cache, do without.`,
		Example: `  rivulet profile pack nginx
  rivulet profile pack redis --workload redis-server
  rivulet profile pack nginx --remove`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			image, _, p, err := flags.load(ctx, a, args[0])
			if err != nil {
				return err
			}
			o, err := a.openOrigin(ctx, false)
			if err != nil {
				return err
			}
			if remove {
				return generation.PutStartPack(ctx, o, image.Map.Digest(), p.Workload, nil)
			}
			made, err := a.makePack(ctx, o, image, p)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(made)
			}
			a.printf("packed %d frames, %s, in %d objects\n", made.Frames, size(made.Bytes), made.Parts)
			return nil
		},
	}
	flags.add(cmd, a)
	cmd.Flags().BoolVar(&remove, "remove", false, "remove the start pack that there is")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// makePack makes the start pack of a profile.
func (a *app) makePack(ctx context.Context, o origin.Origin, image *generation.Image, p *profile.Profile) (*packed, error) {
	wants := packWants(image.Map, p)
	if len(wants) == 0 {
		return nil, errors.New("the profile has no frames that would be packed: what it has comes with the image's metadata")
	}
	parts, err := pack.Start(ctx, image.Map, wants, chunk.NewDoor(image))
	if err != nil {
		return nil, err
	}
	made := &packed{Image: image.Map.Digest().String(), Workload: p.Workload, Parts: len(parts)}
	for _, b := range parts {
		x, err := pack.ParseIndex(b)
		if err != nil {
			return nil, fmt.Errorf("start pack: %w", err)
		}
		made.Frames += len(x.Frames)
		made.Bytes += int64(len(b))
	}
	return made, generation.PutStartPack(ctx, o, image.Map.Digest(), p.Workload, parts)
}

// packWants returns what a start pack has: the plan of a profile, without what comes in the
// metadata object.
func packWants(m *blockmap.Map, p *profile.Profile) []pack.Want {
	apart := make(map[chunk.ID]bool)
	if m.Info().Metadata != (origin.Digest{}) {
		for _, c := range pack.InMetadata(m) {
			apart[c.ID] = true
		}
	}
	var wants []pack.Want
	for _, step := range p.Plan() {
		if apart[m.Chunk(int(step.Chunk)).ID] {
			continue
		}
		frames := slices.Clone(step.Frames)
		slices.Sort(frames)
		wants = append(wants, pack.Want{Pos: int(step.Chunk), Frames: frames})
	}
	return wants
}
