package main

import (
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/host"
)

// writeStarts writes what is known of the starts of disks, if anything is.
func (s *hostStatus) writeStarts(w io.Writer) {
	head := "\nDISK\tWORKLOAD\tSTART\tFRAMES\tPROFILE\tAHEAD\tFETCHED\tUNUSED\tFILL\tPROBLEM\n"
	for i := range s.Disks {
		d := &s.Disks[i]
		if d.Start == nil && d.Fill == nil {
			continue
		}
		began := d.Start
		if began == nil {
			began = &host.Start{} // of an earlier process
		}
		fmt.Fprint(w, head)
		head = ""
		problem := began.Problem
		if problem == "" {
			problem = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", d.ID, shownWorkload(d.Spec.Workload), startState(d.Start), began.Frames,
			replayColumns(began.Replay), fillColumn(d.Fill), printable(problem))
	}
}

// fillColumn says how much of a disk the host cache was filled with.
func fillColumn(f *host.Filled) string {
	if f == nil {
		return "-"
	}
	return fmt.Sprintf("%s, %s", f.State, percent(int64(f.Done), int64(f.Chunks)))
}

// startState says how far a start is, and what was done with what it read.
func startState(s *host.Start) string {
	switch {
	case s == nil:
		return "-"
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
	by := fmt.Sprintf("%d starts", r.Starts)
	if r.Predicted {
		by = "predicted"
	}
	return fmt.Sprintf("%s\t%s\t%s\t%d", by, ahead, size(r.Bytes), r.Unused)
}
