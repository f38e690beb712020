package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/layout"
)

func printSet(w io.Writer, c *collection) {
	layers, files, bytes := len(c.byID), 0, int64(0)
	for _, l := range c.byID {
		files += len(l.files)
		for i := range l.files {
			bytes += l.files[i].size
		}
	}
	fmt.Fprintf(w, "%d images, %d layers, %d files that are not empty, %.1f GB of data.\n", len(c.images), layers, files, float64(bytes)/1e9)
}

func printTable(w io.Writer, title string, list []figures) {
	fmt.Fprintf(w, "\n### %s\n\n", title)
	head := []string{"chunk", "large from", "bin from", "a bin ends by", "unique", "chunks", "mean", "slots", "updates", "python3", "nginx", "postgres", "numpy", "nodejs", "package", "worst", "one file", "worst"}
	for _, s := range list[0].starts {
		head = append(head, s.label)
	}
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat(" ---: |", len(head)))
	for i := range list {
		printRow(w, &list[i])
	}
}

func printRow(w io.Writer, f *figures) {
	mark := ""
	if f.Params == layout.Default && f.rule.ends == nil {
		mark = "**"
	}
	mean, _ := spread(f.renewed)
	fmt.Fprintf(w, "| %s%d K%s | %d K | %d K | %s | %s%.4f%s | %d | %.0f K | %.2f | %.1f %% |", mark, f.Chunk>>10, mark, f.Large>>10, f.MinBin>>10, f.rule.name,
		mark, f.unique, mark, f.count, f.mean/1024, f.address, 100*mean)
	for _, name := range updatedImages {
		fmt.Fprintf(w, " %.1f |", 100*f.renewed[name])
	}
	mean, worst := spread(f.packages)
	fmt.Fprintf(w, " %.1f %% | %.1f %% |", 100*mean, 100*worst)
	one, most := f.oneChunk()
	fmt.Fprintf(w, " %.0f %% | %d |", 100*one, most)
	printCosts(w, f.starts)
}

// printCosts ends a row.
func printCosts(w io.Writer, list []cost) {
	for _, s := range list {
		fmt.Fprintf(w, " %d, %.1f × |", s.units, float64(s.fetched)/float64(s.needed))
	}
	fmt.Fprintln(w)
}

// oneChunk returns the share of changes of one file that make a single chunk
// new, and the most chunks that any made new.
func (f *figures) oneChunk() (share float64, most int) {
	if len(f.fresh) == 0 {
		return 0, 0
	}
	n := 0
	for n < len(f.fresh) && f.fresh[n] <= 1 {
		n++
	}
	return float64(n) / float64(len(f.fresh)), f.fresh[len(f.fresh)-1]
}

// spread returns the mean and the largest of some shares; of none, zeros.
func spread(m map[string]float64) (mean, most float64) {
	if len(m) == 0 {
		return 0, 0
	}
	list := slices.Sorted(maps.Values(m))
	for _, v := range list { // in order, so that the sum is always the same
		mean += v
	}
	return mean / float64(len(list)), list[len(list)-1]
}
