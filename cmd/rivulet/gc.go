package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
)

func (a *app) gcCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Give the space of images back that nobody wants any more",
		Example: `  rivulet gc plan
  rivulet gc run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.gcRunCommand(), a.gcPlanCommand(), a.gcAlarmsCommand(), a.gcClearCommand())
	return cmd
}

// collector returns a collector of the user's store.
func (a *app) collector(ctx context.Context, p gc.Policy) (*gc.Collector, error) {
	o, err := a.openOrigin(ctx, false)
	if err != nil {
		return nil, err
	}
	return &gc.Collector{Origin: o, Policy: p, Tell: a.countCollected()}, nil
}

// policyFlags gives a command the flags of a policy. The policy is whole when the
// flags have been parsed.
func policyFlags(cmd *cobra.Command) *gc.Policy {
	p := gc.DefaultPolicy
	for _, f := range []struct {
		name, usage string
		value       *time.Duration
	}{
		{"new-after", "age of the active generation at which a new one is made", &p.New},
		{"expire-after", "how long a generation is retired before it expires", &p.Retired},
		{"delete-after", "how long a generation is expired before it is deleted", &p.Soak},
		{"forget-after", "how long a deleted generation is listed", &p.Forget},
		{"keep-read", "keep images that were in use within this time", &p.Recent},
	} {
		cmd.Flags().Var((*age)(f.value), f.name, f.usage)
	}
	return &p
}

func (a *app) gcRunCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Take each generation a step further whose time has come",
		Long: `Run makes a new active generation when that is old, copies every image that is
wanted out of the older ones, lets retired ones expire, and deletes expired ones
that nobody has read. An image is wanted that has a name, is pinned, or was in
use lately. Run it daily. It can be killed at any time, and several may run.

While there is an alarm nothing is deleted, and the exit status is 1: see
'rivulet gc alarms'.`,
		Example: `  rivulet gc run
  rivulet gc run --new-after 7d --delete-after 14d`,
		Args: cobra.NoArgs,
	}
	policy := policyFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.collector(cmd.Context(), *policy)
		if err != nil {
			return err
		}
		r, err := c.Run(cmd.Context())
		if err == nil && len(r.Alarms) > 0 {
			err = fmt.Errorf("nothing was deleted: %w; 'rivulet gc alarms' lists them", gc.ErrAlarm)
		}
		return a.reportCollected(r, err, asJSON)
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// reportCollected prints what a collector has done, also if it failed then.
func (a *app) reportCollected(r *gc.Report, err error, asJSON bool) error {
	a.clearLine()
	if asJSON {
		return errors.Join(err, a.printJSON(r))
	}
	for _, g := range r.Made {
		a.printf("generation %v is new and active\n", g)
	}
	if r.Carried > 0 {
		a.printf("images carried to the active generation: %d, chunks copied for that: %d\n", r.Carried, r.Copied)
	}
	for _, g := range r.Expired {
		a.printf("generation %v is expired\n", g)
	}
	for _, g := range r.Deleted {
		a.printf("generation %v is deleted\n", g)
	}
	for _, d := range r.Lost {
		a.note("rivulet: image %s is wanted and in no generation", d)
	}
	return err
}

// countCollected shows on a terminal how much was done.
func (a *app) countCollected() func(gc.Progress) {
	if !isTerminal(a.err) {
		return nil
	}
	lines := newStatusLine(a)
	copied := 0
	return func(p gc.Progress) {
		lines.mu.Lock()
		defer lines.mu.Unlock()
		copied += p.Copied
		if p.Removed > 0 {
			lines.show("removed %d things", p.Removed)
		} else {
			lines.show("copied %d chunks", copied)
		}
	}
}

func (a *app) gcPlanCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what would go, and why",
		Long: `Plan shows for each generation what happens to it next and when, and for each
image that is wanted why it is. It changes nothing.`,
		Example: `  rivulet gc plan --json`,
		Args:    cobra.NoArgs,
	}
	policy := policyFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.collector(cmd.Context(), *policy)
		if err != nil {
			return err
		}
		p, err := c.Plan(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return a.printJSON(p)
		}
		return a.printPlan(p)
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func (a *app) printPlan(p *gc.Plan) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GENERATION\tSTATE\tIMAGES\tSTORED\tWILL GO\tNEXT")
	for _, g := range p.Generations {
		next := g.Next
		if g.Due != nil {
			next = shown(*g.Due) + ": " + next
		}
		fmt.Fprintf(w, "%v\t%v\t%d\t%s\t%s\t%s\n", g.ID, g.State, g.Images, size(g.Bytes), size(g.GoBytes), next)
	}
	fmt.Fprintln(w, "\nIMAGE\tIN\tWANTED FOR")
	for _, i := range p.Images {
		fmt.Fprintf(w, "%.19s\t%v\t%s\n", i.BlockMap, i.In, why(&i.Why))
	}
	for _, g := range p.Generations {
		for _, d := range g.Unwanted {
			fmt.Fprintf(w, "%.19s\t[%v]\tnothing: it goes with its generation\n", d, g.ID)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, name := range p.Broken {
		a.note("rivulet: the name %q is damaged, or leads nowhere", name)
	}
	if len(p.Alarms) > 0 {
		a.note("rivulet: %d alarms stop all deletion; 'rivulet gc alarms' lists them", len(p.Alarms))
	}
	return nil
}

// why says in words why an image is wanted.
func why(w *gc.Want) string {
	s := ""
	add := func(format string, args ...any) {
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf(format, args...)
	}
	for _, name := range w.Names {
		add("name %s", printable(name))
	}
	if w.Pinned {
		add("pin")
	}
	if w.Read != nil {
		add("in use on %s", w.Read.Format(time.DateOnly))
	}
	return s
}

func (a *app) gcAlarmsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "alarms",
		Short: "List the alarms that stop deletion",
		Long: `An alarm says that something was read, or wanted, that garbage collection took
for done with. Nothing is deleted until the alarms are cleared.`,
		Example: `  rivulet gc alarms`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.openOrigin(cmd.Context(), false)
			if err != nil {
				return err
			}
			list, err := generation.Alarms(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(append([]generation.Alarm{}, list...))
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ALARM\tTIME\tGENERATION\tREASON\tBY")
			for _, l := range list {
				fmt.Fprintf(w, "%s\t%s\t%v\t%s\t%s\n", l.Name, shown(l.Time), l.Generation, printable(l.Reason), printable(l.Who))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) gcClearCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "clear ALARM...",
		Short: "Clear alarms, so that deletion goes on",
		Long: `Clear takes alarms away. See first why they were raised: an image that is read
from an expired generation should be pinned, named, or read by its users anew.`,
		Example: `  rivulet gc clear --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all != (len(args) == 0) {
				return usagef("name the alarms to clear, or clear --all of them")
			}
			o, err := a.openOrigin(cmd.Context(), false)
			if err != nil {
				return err
			}
			if all {
				list, err := generation.Alarms(cmd.Context(), o)
				if err != nil {
					return err
				}
				for _, l := range list {
					args = append(args, l.Name)
				}
			}
			for _, name := range args {
				if err := generation.Clear(cmd.Context(), o, name); err != nil {
					return fmt.Errorf("alarm %q: %w; 'rivulet gc alarms' lists them", name, err)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "clear all alarms")
	return cmd
}
