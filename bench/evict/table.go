package main

import (
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/store/cache/evict/simulate"
)

func writeTraces(w io.Writer, list []*simulate.Trace) {
	fmt.Fprintf(w, "| trace | requests | chunks | working set, MiB |\n| --- | ---: | ---: | ---: |\n")
	for _, t := range list {
		fmt.Fprintf(w, "| %s | %d | %d | %d |\n", t.Name, len(t.Requests), len(t.Costs), t.WorkingSet()>>20)
	}
	fmt.Fprintln(w)
}

// writeRatios writes, for each trace, the hit ratio of each policy by the size
// of the cache, the best in bold.
func writeRatios(w io.Writer, list []*simulate.Trace, compared []figures, best figures) {
	for t, trace := range list {
		fmt.Fprintf(w, "### %s\n\n| hit ratio, %%; cache: |", trace.Name)
		for _, share := range shares {
			fmt.Fprintf(w, " %d %% |", share)
		}
		fmt.Fprintf(w, "\n| --- |")
		for range shares {
			fmt.Fprintf(w, " ---: |")
		}
		fmt.Fprintln(w)
		for s := range subjects {
			fmt.Fprintf(w, "| %s |", subjects[s].name)
			for i := range shares {
				fmt.Fprintf(w, " %s |", emphasise(compared, s, t, i))
			}
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "| *Belady* |")
		for i := range shares {
			fmt.Fprintf(w, " *%.1f* |", 100*best[t][i].HitRatio())
		}
		fmt.Fprintf(w, "\n\n")
	}
}

// emphasise prints the hit ratio of a subject, in bold if none is higher.
func emphasise(compared []figures, s, t, i int) string {
	text := func(s int) string { return fmt.Sprintf("%.1f", 100*compared[s][t][i].HitRatio()) }
	top := ""
	high := -1.0
	for other := range compared {
		if r := compared[other][t][i].HitRatio(); r > high {
			high, top = r, text(other)
		}
	}
	if text(s) == top {
		return "**" + top + "**"
	}
	return text(s)
}

// writeBytes writes the share of bytes that were hits, at one size.
func writeBytes(w io.Writer, list []*simulate.Trace, compared []figures, best figures) {
	const at = 3 // 10 %
	fmt.Fprintf(w, "| bytes hit, %%; cache of %d %% |", shares[at])
	for _, t := range list {
		fmt.Fprintf(w, " %s |", t.Name)
	}
	fmt.Fprintf(w, "\n| --- |")
	for range list {
		fmt.Fprintf(w, " ---: |")
	}
	fmt.Fprintln(w)
	row := func(name string, f figures) {
		fmt.Fprintf(w, "| %s |", name)
		for t := range list {
			fmt.Fprintf(w, " %.1f |", 100*f[t][at].ByteHitRatio())
		}
		fmt.Fprintln(w)
	}
	for s := range subjects {
		row(subjects[s].name, compared[s])
	}
	row("*Belady*", best)
	fmt.Fprintln(w)
}

// writeMeans writes, for each subject, the hit ratio over Belady's, a mean over
// all traces; the least; and the misses over Belady's.
func writeMeans(w io.Writer, title string, list []subject, measured []figures, best figures) {
	fmt.Fprintf(w, "| %s |", title)
	for _, share := range shares {
		fmt.Fprintf(w, " %d %% |", share)
	}
	fmt.Fprintf(w, " all sizes | worst |\n| --- |")
	for range len(shares) + 2 {
		fmt.Fprintf(w, " ---: |")
	}
	fmt.Fprintln(w)
	for s := range list {
		fmt.Fprintf(w, "| %s |", list[s].name)
		sum, worst := 0.0, 1.0
		for i := range shares {
			column := 0.0
			for t := range measured[s] {
				r := measured[s][t][i].HitRatio() / best[t][i].HitRatio()
				column += r
				worst = min(worst, r)
			}
			column /= float64(len(measured[s]))
			sum += column
			fmt.Fprintf(w, " %.1f |", 100*column)
		}
		fmt.Fprintf(w, " %.1f | %.1f |\n", 100*sum/float64(len(shares)), 100*worst)
	}
	fmt.Fprintln(w)
}
