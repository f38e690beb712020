package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/profile/plot"
)

func (a *app) profileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Look after what starts of images read, so that later ones are fast",
		Long: `A profile is what starts of an image and workload have read, in the order in which
the next start will. It is kept in the store beside the image, and is advice: it
can be removed at any time. Hosts that may write to the store add each start to it; see
--profile of 'rivulet serve', 'mount', 'agent attach' and 'vm run'.`,
		Example: `  rivulet profile ls
  rivulet profile show nginx --plot nginx.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		a.profileLsCommand(), a.profileShowCommand(), a.profileExportCommand(), a.profileImportCommand(),
		a.profileMergeCommand(), a.profileInheritCommand(), a.profilePredictCommand(), a.profileRmCommand(), a.profileRecordCommand(), a.profileMarkCommand(), a.profilePackCommand(),
	)
	return cmd
}

const workloadHelp = "name of what was started (default what the image starts by itself)"

// shownWorkload returns a workload as people see it.
func shownWorkload(workload string) string {
	if workload == "" {
		return "-"
	}
	return printable(workload)
}

// A shownProfile is what ls and show tell of a profile.
type shownProfile struct {
	Image      string              `json:"image"` // as it was asked for, or its name
	BlockMap   string              `json:"block_map"`
	Workload   string              `json:"workload"`
	Generation origin.GenerationID `json:"generation"`
	Versions   []string            `json:"versions"` // newest first
	Starts     uint32              `json:"starts"`
	Predicted  bool                `json:"predicted,omitempty"` // there was none yet
	Length     float64             `json:"length_seconds"`      // of the longest start
	Frames     int                 `json:"frames"`
	Bytes      int64               `json:"bytes"`        // of those frames, at most, as the guest reads them
	Stored     int64               `json:"stored_bytes"` // that they take in the store, about
	Waits      int                 `json:"waits"`        // frames that readers waited for
	Waited     float64             `json:"waited_seconds"`
	Rare       int                 `json:"rare"` // frames that fewer than half of the starts read
	Entries    []shownEntry        `json:"entries,omitempty"`
}

// A shownEntry is a frame of a profile, in the order in which to fetch.
type shownEntry struct {
	Chunk  uint32  `json:"chunk"`
	Frame  uint16  `json:"frame"`
	Starts uint32  `json:"starts"`
	At     float64 `json:"at_seconds"`
	Waited float64 `json:"waited_seconds"`
}

// describeProfile returns what is to be shown of p, of an image called name.
func describeProfile(name string, m *blockmap.Map, at generation.Profiled, p *profile.Profile) *shownProfile {
	sum := plot.Summarize(p)
	s := &shownProfile{
		Image: name, BlockMap: p.Image.String(), Workload: p.Workload, Generation: at.Generation, Versions: []string{},
		Starts: p.Starts, Predicted: p.Predicted, Length: p.Length.Seconds(), Frames: len(p.Entries), Bytes: int64(len(p.Entries)) << m.Info().FrameLog2,
		Waits: sum.Waits, Waited: sum.Waited.Seconds(), Rare: sum.Rare,
	}
	g := profile.GeometryOf(m)
	for i := range p.Entries {
		s.Stored += g.Coded(p.Entries[i].Frame)
	}
	for _, v := range at.Versions {
		s.Versions = append(s.Versions, v.String())
	}
	return s
}

func (a *app) profileLsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [IMAGE...]",
		Short: "List the profiles of images, or of all that have a name",
		Example: `  rivulet profile ls
  rivulet profile ls nginx redis --json`,
		ValidArgsFunction: a.completeImages(1 << 10),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			view, err := a.openView(ctx)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				if args, err = allNames(ctx, view); err != nil {
					return err
				}
			}
			list, err := a.listProfiles(ctx, view, args)
			if asJSON {
				return errors.Join(a.printJSON(list), err)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tWORKLOAD\tSTARTS\tVERSIONS\tFRAMES\tREADS\tTAKES\tWAITED")
			for _, p := range list {
				starts := fmt.Sprint(p.Starts)
				if p.Predicted {
					starts = "predicted"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%.1f s\t%.1f s\n", printable(p.Image), shownWorkload(p.Workload), starts, len(p.Versions),
					p.Frames, size(p.Bytes), p.Length, p.Waited)
			}
			return errors.Join(w.Flush(), err)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// listProfiles returns the profiles of images. What is damaged hides no others, and
// is an error beside them.
func (a *app) listProfiles(ctx context.Context, v *generation.View, refs []string) ([]*shownProfile, error) {
	list := []*shownProfile{}
	var broken []error
	for _, ref := range refs {
		image, err := a.find(ctx, v, ref, false)
		if err != nil {
			return list, err
		}
		profiles, err := v.Profiles(ctx, image.Map.Digest())
		if err != nil && !errors.Is(err, catalog.ErrProfile) {
			return list, err
		}
		broken = append(broken, err)
		for _, at := range profiles {
			p, err := v.Profile(ctx, image.Map.Digest(), at.Workload)
			if err == nil {
				list = append(list, describeProfile(ref, image.Map, at, p))
			} else if !errors.Is(err, chunk.ErrNotFound) { // removed meanwhile
				broken = append(broken, err)
			}
		}
	}
	return list, errors.Join(broken...)
}

// profileFlags choose a profile of an image.
type profileFlags struct{ workload, version string }

func (f *profileFlags) add(cmd *cobra.Command, a *app) {
	cmd.Flags().StringVar(&f.workload, "workload", "", workloadHelp)
	a.completeWorkloads(cmd)
	cmd.Flags().StringVar(&f.version, "version", "", "version, by its digest as 'profile show' has it (default the newest)")
}

// completeWorkloads completes --workload with those that the image, the first
// argument, has profiles of.
func (a *app) completeWorkloads(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("workload", func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		view, err := a.openView(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		image, err := openRef(cmd.Context(), view.Open, args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, _ := view.Profiles(cmd.Context(), image.Map.Digest()) // what there is, is offered
		var names []cobra.Completion
		for _, at := range list {
			if at.Workload != "" {
				names = append(names, at.Workload)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// load finds an image and the profile of it that was chosen.
func (f *profileFlags) load(ctx context.Context, a *app, ref string) (*generation.Image, generation.Profiled, *profile.Profile, error) {
	fail := func(err error) (*generation.Image, generation.Profiled, *profile.Profile, error) {
		return nil, generation.Profiled{}, nil, err
	}
	view, err := a.openView(ctx)
	if err != nil {
		return fail(err)
	}
	image, err := a.find(ctx, view, ref, false)
	if err != nil {
		return fail(err)
	}
	d := image.Map.Digest()
	var p *profile.Profile
	if f.version == "" {
		p, err = view.Profile(ctx, d, f.workload)
	} else {
		var version origin.Digest
		if version, err = origin.ParseDigest(f.version); err != nil {
			return fail(usageError{err})
		}
		p, err = view.ReadProfile(ctx, d, f.workload, version)
	}
	if err == nil {
		err = p.Fits(image.Map)
	}
	if errors.Is(err, chunk.ErrNotFound) {
		err = fmt.Errorf("%w; 'rivulet profile ls %s' lists the workloads that have one", err, ref)
	}
	if err != nil {
		return fail(err)
	}
	list, err := view.Profiles(ctx, d)
	if err != nil && !errors.Is(err, catalog.ErrProfile) { // of another workload: this one is here
		return fail(err)
	}
	i := slices.IndexFunc(list, func(at generation.Profiled) bool { return at.Workload == f.workload })
	if i < 0 {
		return image, generation.Profiled{Workload: f.workload}, p, nil
	}
	return image, list[i], p, nil
}

func (a *app) profileShowCommand() *cobra.Command {
	var flags profileFlags
	var asJSON bool
	var picture string
	cmd := &cobra.Command{
		Use:   "show IMAGE",
		Short: "Show what starts of an image read, and draw it",
		Long: `Show tells what starts of an image have read and waited for. With --plot it draws
which chunks were read when: at hand, waited for, or read by so few starts that
fetching them ahead is more likely waste than not.`,
		Example: `  rivulet profile show nginx
  rivulet profile show redis --workload 'redis-server --save ""' --plot redis.svg`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			image, at, p, err := flags.load(cmd.Context(), a, args[0])
			if err != nil {
				return err
			}
			s := describeProfile(args[0], image.Map, at, p)
			if picture != "" {
				err := a.writeFile(picture, func(w io.Writer) error { return plot.SVG(w, p) })
				if err != nil || picture == "-" {
					return err
				}
			}
			if asJSON {
				for _, e := range p.Entries {
					s.Entries = append(s.Entries, shownEntry{e.Chunk, e.Number, e.Starts, e.At.Seconds(), e.Waited.Seconds()})
				}
				return a.printJSON(s)
			}
			a.showProfile(s, p)
			return nil
		},
	}
	flags.add(cmd, a)
	cmd.Flags().StringVar(&picture, "plot", "", "draw it into this SVG file; - is standard output")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object, with all frames")
	return cmd
}

// showProfile prints s, and how much starts have read by when.
func (a *app) showProfile(s *shownProfile, p *profile.Profile) {
	a.printf("block map  %s\n", s.BlockMap)
	a.printf("workload   %s\n", cmp.Or(printable(s.Workload), "what the image starts by itself"))
	if s.Predicted {
		a.printf("starts     none yet: it is predicted from the image's files\n")
	} else {
		a.printf("starts     %d, the longest of %.1f s\n", s.Starts, s.Length)
	}
	a.printf("reads      %d frames, up to %s, of %s in the store\n", s.Frames, size(s.Bytes), size(s.Stored))
	if !s.Predicted {
		a.printf("waited     for %d of them, %.1f s in all\n", s.Waits, s.Waited)
		a.printf("rare       %d of them: fewer than half of the starts read them\n", s.Rare)
	}
	for i, v := range s.Versions {
		if i == 0 {
			a.printf("versions   %s (newest)\n", v)
		} else {
			a.printf("           %s\n", v)
		}
	}
	if len(p.Entries) == 0 || s.Predicted {
		return
	}
	a.printf("\nof the frames that are not rare, by the time:\n")
	var times []time.Duration
	for i := range p.Entries {
		if e := &p.Entries[i]; !p.Rare(e) {
			times = append(times, e.At)
		}
	}
	slices.Sort(times)
	for _, part := range []int{25, 50, 75, 90, 100} {
		if n := len(times) * part / 100; n > 0 {
			a.printf("%8.3f s  %3d %%  %d\n", times[n-1].Seconds(), part, n)
		}
	}
}

func (a *app) profileRmCommand() *cobra.Command {
	var workload string
	var all bool
	cmd := &cobra.Command{
		Use:   "rm IMAGE",
		Short: "Forget what starts of an image read",
		Long: `Rm removes the profile of an image and workload, all of its versions. The next
start is recorded anew.`,
		Example: `  rivulet profile rm nginx
  rivulet profile rm nginx --all`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if all && workload != "" {
				return usagef("--all are the profiles of all workloads; leave out --workload")
			}
			view, err := a.openView(ctx)
			if err != nil {
				return err
			}
			image, err := a.find(ctx, view, args[0], false)
			if err != nil {
				return err
			}
			workloads := []string{workload}
			if all {
				list, err := view.Profiles(ctx, image.Map.Digest())
				if err != nil && !errors.Is(err, catalog.ErrProfile) {
					return err
				}
				workloads = nil
				for _, at := range list {
					workloads = append(workloads, at.Workload)
				}
			}
			for _, w := range workloads {
				if err := generation.RemoveProfile(ctx, view.Origin(), image.Map.Digest(), w); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&workload, "workload", "", workloadHelp)
	a.completeWorkloads(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "of all workloads")
	return cmd
}
