package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

func (a *app) generationCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "generation",
		Short: "See the generations of a store, and take them further by hand",
		Long: `All that is published goes into the active generation of a store. A new one
retires it; what is still wanted is copied forward; then it expires, is read by
nobody, and is deleted as a whole. 'rivulet gc run' does all that by age.`,
		Example: `  rivulet generation list
  rivulet generation new`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		a.generationListCommand(), a.generationNewCommand(),
		a.generationStepCommand("retire", "Make a generation retired, and copy what is wanted to the active one",
			`Retire copies every wanted image out of all but the active generation into that.
If ID is the active generation, a new one takes its place first.`,
			(*gc.Collector).Retire),
		a.generationStepCommand("expire", "Make a retired generation expired",
			`Expire copies what is still wanted forward, and marks the generation as one that
nobody should read any more. Whoever reads it raises an alarm.`,
			(*gc.Collector).Expire),
		a.generationStepCommand("delete", "Delete an expired generation",
			`Delete looks through an expired generation a last time and removes all of it, at
whatever age. It does not if there are alarms, or if something in it is wanted.`,
			(*gc.Collector).Delete),
	)
	return cmd
}

func (a *app) generationListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the generations of the store",
		Example: `  rivulet generation list --json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.openOrigin(cmd.Context(), false)
			if err != nil {
				return err
			}
			l, err := generation.Load(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(l)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "GENERATION\tSTATE\tSINCE\tCREATED")
			for _, e := range l {
				fmt.Fprintf(w, "%v\t%v\t%s\t%s\n", e.ID, e.State, shown(e.Since), shown(e.Created))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// shown is a time for people; a list that was never written has none.
func shown(t time.Time) string {
	if t.Unix() == 0 {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func (a *app) generationNewCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "new",
		Short: "Make a new active generation",
		Long: `New makes a new active generation and retires the one before. Publications that
are under way end in the new one.`,
		Example: `  rivulet generation new`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.openOrigin(cmd.Context(), false)
			if err != nil {
				return err
			}
			old, err := generation.Active(cmd.Context(), o)
			if err != nil {
				return err
			}
			id, err := generation.New(cmd.Context(), o, old, time.Now())
			if err == nil {
				a.printf("%v\n", id)
			}
			return err
		},
	}
}

// generationStepCommand is a command that takes one generation a step further.
func (a *app) generationStepCommand(name, short, long string, step func(*gc.Collector, context.Context, origin.GenerationID) (*gc.Report, error)) *cobra.Command {
	var asJSON bool
	recent := age(gc.DefaultPolicy.Recent)
	cmd := &cobra.Command{
		Use:     name + " ID",
		Short:   short,
		Long:    long,
		Example: "  rivulet generation " + name + " 1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := origin.ParseGenerationID(args[0])
			if err != nil {
				return usageError{err}
			}
			c, err := a.collector(cmd.Context(), gc.Policy{Recent: time.Duration(recent)})
			if err != nil {
				return err
			}
			r, err := step(c, cmd.Context(), id)
			return a.reportCollected(r, err, asJSON)
		},
	}
	cmd.Flags().Var(&recent, "keep-read", "keep images that were in use within this time")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}
