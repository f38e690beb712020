package main

import (
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/host"
)

// writeStarts writes what is known of the starts of disks, if anything is.
func (s *hostStatus) writeStarts(w io.Writer) {
	head := "\nDISK\tWORKLOAD\tSTART\tFRAMES\tPROFILE\tAHEAD\tFETCHED\tUNUSED\tPROBLEM\n"
	for i := range s.Disks {
		d := &s.Disks[i]
		if d.Start == nil {
			continue
		}
		fmt.Fprint(w, head)
		head = ""
		problem := d.Start.Problem
		if problem == "" {
			problem = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, shownWorkload(d.Start.Workload), startState(d.Start), d.Start.Frames, replayColumns(d.Start.Replay), printable(problem))
	}
}

// startState says how far a start is, and what was done with what it read.
func startState(s *host.Start) string {
	switch {
	case !s.Over:
		return "goes on"
	case s.Kept == "origin":
		return "remembered"
	case s.Kept != "":
		return "remembered here"
	}
	return "over"
}

// replayColumns says by what a start was read ahead of, how far, for how much, and what
// of that was not read.
func replayColumns(r *host.Replay) string {
	if r == nil {
		return "none\t-\t-\t-"
	}
	ahead := fmt.Sprintf("%d of %d", r.Fetched, r.Planned)
	if r.Ended != "" {
		ahead += ", ended: " + printable(r.Ended)
	}
	return fmt.Sprintf("%d starts\t%s\t%s\t%d", r.Starts, ahead, size(r.Bytes), r.Unused)
}
