package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/internal/histogram"
)

// A readPart is some bytes of a slow read, and what they are of.
type readPart struct {
	Use    string `json:"use"`             // as ext4.Use says it
	Path   string `json:"path,omitempty"`  // of the file, absolute
	Inode  uint32 `json:"inode,omitempty"` // of an inode table, the first
	Offset int64  `json:"offset"`          // in the file, in bytes
	Length int64  `json:"length"`
}

// String names what was read, for people.
func (p *readPart) String() string {
	switch {
	case p.Path == "" && p.Inode == 0:
		return p.Use
	case p.Path == "":
		return fmt.Sprintf("%s (inode %d)", p.Use, p.Inode)
	case p.Use == ext4.FileData.String():
		return printable(p.Path)
	}
	return fmt.Sprintf("%s %s", p.Use, printable(p.Path))
}

// An explainedRead is a slow read and what it read.
type explainedRead struct {
	host.SlowRead
	Parts []readPart `json:"parts"` // the one with the most bytes first
}

// what names the part that the read was for, or mostly for.
func (r *explainedRead) what() string {
	if len(r.Parts) == 0 {
		return "not looked up"
	}
	return r.Parts[0].String()
}

// A slowThing sums up the newest slow reads of one file, or of one part of the file
// system.
type slowThing struct {
	What    string        `json:"what"`
	Use     string        `json:"use,omitempty"`
	Path    string        `json:"path,omitempty"`
	Reads   int           `json:"reads"`
	Wait    time.Duration `json:"wait_ns"` // of all together
	Longest time.Duration `json:"longest_ns"`
	Tier    string        `json:"tier"` // of the longest
}

// An explanation is what explain says.
type explanation struct {
	Disk        host.Info       `json:"attachment"`
	Slow        time.Duration   `json:"slow_ns"`
	Tiers       []host.SlowTier `json:"tiers"`
	Things      []slowThing     `json:"things"` // of the newest reads, the longest waits first
	Reads       []explainedRead `json:"reads"`  // the newest, the oldest of them first
	Suggestions []string        `json:"suggestions"`
	Problem     string          `json:"problem,omitempty"` // why files have no names
}

func (a *app) explainCommand() *cobra.Command {
	var asJSON, each bool
	var most int
	cmd := &cobra.Command{
		Use:   "explain DISK",
		Short: "Tell which reads of a disk were slow, from where, and of which files",
		Long: `Explain asks the agent which reads of a disk were slow (100 ms, or what the agent's
--slow-read says) or failed, since that agent began to serve it: all are counted by
the tier that they had to wait for, and the newest 1,024 are told one by one. Explain
then reads the disk's file system itself, from the same store and with the same
identity, and says to which files these reads belong, or to what else: the superblock,
inode tables, directories, the journal; slack is room beside files, and files that the
image hides. A read of several files counts for the one that it read most of.

DISK is what 'rivulet agent ls' shows: an ID, a directory, an address, an image.`,
		Example: `  rivulet explain /mnt
  rivulet explain nginx --reads`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeAttachments,
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.explain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(e)
			}
			return e.write(a.out, most, each)
		},
	}
	cmd.Flags().StringVar(&a.agent, "agent", "", "the agent's socket (default $"+agentEnvironment+", or one in the user's runtime folder)")
	a.cacheFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	cmd.Flags().BoolVar(&each, "reads", false, "list the newest slow reads one by one, too")
	cmd.Flags().IntVar(&most, "most", 20, "how many files to list; 0: all")
	return cmd
}

// explain gathers what is known of a disk's slow reads.
func (a *app) explain(ctx context.Context, disk string) (*explanation, error) {
	c, infos, err := a.agentAttachments(ctx)
	if err != nil {
		return nil, err
	}
	i, err := diskNamed(infos, disk)
	if err != nil {
		return nil, err
	}
	slow, err := c.Slow(ctx, i.ID)
	if err != nil {
		return nil, err
	}
	e := &explanation{Disk: *i, Slow: slow.Slow, Tiers: slow.Tiers, Things: []slowThing{}, Reads: make([]explainedRead, len(slow.Reads))}
	for n := range slow.Reads {
		e.Reads[n] = explainedRead{SlowRead: slow.Reads[n], Parts: []readPart{}}
	}
	if len(e.Reads) > 0 {
		if err := a.nameReads(ctx, i, e.Reads); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			e.Problem = err.Error()
		} else {
			e.Things = slowThings(e.Reads)
		}
	}
	e.Suggestions = e.suggest(a.hostCache(ctx) != nil)
	return e, nil
}

// slowThings sums reads up by what they read.
func slowThings(reads []explainedRead) []slowThing {
	at := map[string]int{}
	list := []slowThing{}
	for i := range reads {
		r := &reads[i]
		name := r.what()
		n, ok := at[name]
		if !ok {
			n = len(list)
			at[name] = n
			t := slowThing{What: name}
			if len(r.Parts) > 0 {
				t.Use, t.Path = r.Parts[0].Use, r.Parts[0].Path
			}
			list = append(list, t)
		}
		t := &list[n]
		t.Reads++
		t.Wait += r.Wait
		if r.Wait >= t.Longest {
			t.Longest, t.Tier = r.Wait, r.Tier
		}
	}
	slices.SortStableFunc(list, func(a, b slowThing) int { return cmp.Compare(b.Wait, a.Wait) })
	return list
}

// sums returns the slow reads of all tiers, and how long they waited in all.
func (e *explanation) sums() (reads int64, wait time.Duration) {
	for _, t := range e.Tiers {
		reads += t.Reads
		wait += t.Waits.Sum
	}
	return reads, wait
}

// mostColumns bounds the times that have a column.
const mostColumns = 10

// write writes the explanation for people.
func (e *explanation) write(out io.Writer, most int, each bool) error {
	where := e.Disk.Address
	if where == "" {
		where = e.Disk.Spec.Where
	}
	fmt.Fprintf(out, "%s  %s  %s  %s\n", e.Disk.ID, printable(e.Disk.Spec.Image), printable(where), e.Disk.State)
	got := &e.Disk.Served
	fmt.Fprintf(out, "%d reads of %s, %d failed, %d of them for want of time; %s of the disk's frames came from memory\n",
		got.Reads, size(got.Bytes), got.Errors, got.Hung, share(answeredBy(e.Disk.Reads).ratios().Memory))
	if s := e.Disk.Start; s != nil && s.Replay != nil {
		by := fmt.Sprintf("a profile of %d starts", s.Replay.Starts)
		if s.Replay.Predicted {
			by = "a predicted profile"
		}
		fmt.Fprintf(out, "read ahead by %s: %s for %d of %d frames, %d of them not read\n",
			by, size(s.Replay.Bytes), s.Replay.Fetched, s.Replay.Planned, s.Replay.Unused)
	}
	reads, wait := e.sums()
	if reads == 0 {
		fmt.Fprintf(out, "no read took %s or longer, and none failed\n", span(e.Slow))
		return nil
	}
	fmt.Fprintf(out, "%d reads took %s or longer or failed; they waited %s in all\n\n", reads, span(e.Slow), span(wait))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "TIER\tREADS\tFAILED\tWAITED\tLONGEST")
	first, last := histogram.Buckets-1, 0 // columns that have something to show
	for _, t := range e.Tiers {
		for i, n := range t.Waits.Buckets {
			if n > 0 {
				first, last = min(first, i), max(last, i)
			}
		}
	}
	first = max(first, last-mostColumns+1)
	for i := first; i <= last; i++ {
		if i == histogram.Buckets-1 {
			fmt.Fprint(w, "\tLONGER")
		} else {
			fmt.Fprintf(w, "\t<%s", span(histogram.Bound(i)))
		}
	}
	fmt.Fprintln(w)
	for _, t := range e.Tiers {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s", t.Tier, t.Reads, t.Failed, span(t.Waits.Sum), span(t.Longest))
		var shorter int64 // than what has a column
		for i, n := range t.Waits.Buckets[:last+1] {
			if shorter += n; i >= first {
				fmt.Fprintf(w, "\t%d", shorter)
				shorter = 0
			}
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if e.Problem != "" {
		fmt.Fprintf(out, "\nwhich files they are of could not be found out: %s\n", printable(e.Problem))
	}
	e.writeThings(w, most)
	if each {
		fmt.Fprintln(w, "\nBEGUN\tOFFSET\tBYTES\tWAITED\tTIER\tOF")
		for i := range e.Reads {
			e.Reads[i].write(w)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, s := range e.Suggestions {
		if i == 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "* %s\n", s)
	}
	return nil
}

func (e *explanation) writeThings(w io.Writer, most int) {
	if len(e.Things) == 0 {
		return
	}
	fmt.Fprintf(w, "\nof the newest %d:\n", len(e.Reads))
	fmt.Fprintln(w, "WAITED\tLONGEST\tTIER\tREADS\tOF")
	things := e.Things
	if most > 0 && len(things) > most {
		things = things[:most]
	}
	for _, t := range things {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", span(t.Wait), span(t.Longest), t.Tier, t.Reads, t.What)
	}
	if n := len(e.Things) - len(things); n > 0 {
		fmt.Fprintf(w, "…\t\t\t\t%d more; --most 0 lists all\n", n)
	}
}

func (r *explainedRead) write(w io.Writer) {
	names := make([]string, 0, 3)
	for i := range r.Parts {
		if len(names) == cap(names) {
			names[len(names)-1] = fmt.Sprintf("%d more", len(r.Parts)-i+1)
			break
		}
		names = append(names, r.Parts[i].String())
	}
	note := ""
	if r.Opening {
		note = " (the disk was not open yet)"
	}
	if r.Error != "" {
		note += " FAILED: " + printable(r.Error)
	}
	fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s%s\n", r.Begun.Local().Format(time.DateTime), r.Offset, r.Length, span(r.Wait), r.Tier, strings.Join(names, ", "), note)
}
