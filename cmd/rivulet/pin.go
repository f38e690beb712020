package main

import (
	"errors"
	"fmt"
	"math"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// A listedPin is a line of pin.
type listedPin struct {
	BlockMap string `json:"block_map"`
	generation.Pin
}

func (a *app) pinCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "pin [IMAGE...]",
		Short: "Keep images whether they have a name or not, or list those",
		Long: `Pin keeps images from garbage collection: as they are now, also when their names
are removed or lead to other images later. Without arguments it lists the pins.`,
		Example: `  rivulet pin nginx
  rivulet pin`,
		ValidArgsFunction: a.completeImages(math.MaxInt),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.listPins(cmd, v.Origin(), asJSON)
			}
			for _, ref := range args {
				i, err := openRef(cmd.Context(), v.Pin, ref)
				if err != nil {
					return err
				}
				a.printf("%v\n", i.Map.Digest())
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as a JSON array")
	return cmd
}

func (a *app) listPins(cmd *cobra.Command, o origin.Origin, asJSON bool) error {
	pins, err := generation.Pins(cmd.Context(), o)
	if err != nil {
		return err
	}
	list := []listedPin{}
	for _, p := range pins {
		list = append(list, listedPin{p.Image.String(), p})
	}
	if asJSON {
		return a.printJSON(list)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PINNED AS\tSINCE\tBY\tBLOCK MAP")
	for _, p := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", printable(p.Ref), shown(p.Time), printable(p.Who), p.BlockMap)
	}
	return w.Flush()
}

func (a *app) unpinCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unpin IMAGE...",
		Short: "Take pins away",
		Long: `Unpin takes the pins of images away. An image can be named by a name that leads
to it, by what it was pinned as, or by its digest.`,
		Example: `  rivulet unpin nginx`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.openView(cmd.Context())
			if err != nil {
				return err
			}
			pins, err := generation.Pins(cmd.Context(), v.Origin())
			if err != nil {
				return err
			}
			for _, ref := range args {
				d, err := pinned(cmd, v, pins, ref)
				if err == nil {
					err = generation.Unpin(cmd.Context(), v.Origin(), d)
				}
				if errors.Is(err, chunk.ErrNotFound) {
					return fmt.Errorf("%q is not pinned; 'rivulet pin' lists what is", ref)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// pinned returns the pinned image that ref means: by its pin, or by where it
// leads.
func pinned(cmd *cobra.Command, v *generation.View, pins []generation.Pin, ref string) (origin.Digest, error) {
	for _, p := range pins {
		if ref == p.Ref || ref == p.Image.String() {
			return p.Image, nil
		}
	}
	return openRef(cmd.Context(), v.Find, ref)
}
