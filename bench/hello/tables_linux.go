package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// A table is what a report shows as one, in Markdown and HTML.
type table struct {
	Title string
	Note  string
	Head  []string
	Rows  [][]string
}

func (t *table) add(cells ...string) { t.Rows = append(t.Rows, cells) }

// tables returns all of a report's.
func (f *figures) tables() []*table {
	list := []*table{f.boundsTable()}
	for _, l := range slices.Backward(f.links) { // the far one first
		list = append(list, f.timesTable(l, false), f.ratiosTable(l), f.bytesTable(l), f.secondTable(l))
	}
	for _, l := range slices.Backward(f.links) {
		list = append(list, f.timesTable(l, true))
	}
	list = append(list, f.needsTable(), f.developTable(), f.steadyTable())
	return slices.DeleteFunc(list, func(t *table) bool { return len(t.Rows) == 0 })
}

func (f *figures) boundsTable() *table {
	t := &table{Title: "What was to be held", Head: []string{"goal", "", "measured"},
		Note: "Of the link of 100 Mbit/s and 30 ms, unless it says another one."}
	for _, b := range f.bounds() {
		t.add(b.Goal, b.Met, b.How)
	}
	return t
}

// timesTable has seconds from nothing to ready.
func (f *figures) timesTable(l string, whole bool) *table {
	images, contenders := f.measured(kindStart, l, whole)
	t := &table{Title: "Seconds from the pull to ready, " + l, Head: append([]string{"image"}, contenders...),
		Note: "Medians; in brackets pull, create and ready. The most rounds of a row stand behind its name."}
	if whole {
		t.Title = "Seconds from the pull to the end of what reads everything, " + l
	}
	for _, image := range images {
		rounds := 0
		cells := []string{""}
		for _, c := range contenders {
			x := f.at(kindStart, l, image, c)
			if x == nil {
				cells = append(cells, "–")
				continue
			}
			rounds = max(rounds, x.rounds)
			text := fmt.Sprintf("%.2f (%.2f, %.2f, %.2f)", x.total, x.pull, x.create, x.ready)
			if x.p95 > 0 {
				text += fmt.Sprintf(", p95 %.2f", x.p95)
			}
			cells = append(cells, text)
		}
		cells[0] = fmt.Sprintf("%s (%d)", image, rounds)
		t.add(cells...)
	}
	return t
}

// ratiosTable has times of a plain pull.
func (f *figures) ratiosTable(l string) *table {
	images, contenders := f.measured(kindStart, l, false)
	contenders = slices.DeleteFunc(contenders, func(c string) bool { return c == plain })
	t := &table{Title: "In times of a plain pull, " + l, Head: append([]string{"image"}, contenders...)}
	for _, image := range images {
		cells := []string{image}
		for _, c := range contenders {
			cells = append(cells, ratioText(f.ratio(kindStart, l, image, c, plain)))
		}
		t.add(cells...)
	}
	if len(images) == 0 || len(contenders) == 0 {
		return &table{}
	}
	medians := []string{"median"}
	for _, c := range contenders {
		values, _ := f.ratios(l, c, plain, false)
		medians = append(medians, ratioText(median(values)))
	}
	t.add(medians...)
	return t
}

func ratioText(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", v)
}

// bytesTable has what crossed the link until ready, and how many requests that took.
func (f *figures) bytesTable(l string) *table {
	images, contenders := f.measured(kindStart, l, false)
	t := &table{Title: "MB over the link until ready, and requests, " + l, Head: append([]string{"image"}, contenders...)}
	for _, image := range images {
		cells := []string{image}
		for _, c := range contenders {
			if x := f.at(kindStart, l, image, c); x != nil {
				cells = append(cells, fmt.Sprintf("%.1f, %.0f", x.bytes/1e6, x.requests))
			} else {
				cells = append(cells, "–")
			}
		}
		t.add(cells...)
	}
	return t
}

// secondTable has the second start on the same host, and the share of its reads that caches served.
func (f *figures) secondTable(l string) *table {
	images, contenders := f.measured(kindSecond, l, false)
	t := &table{Title: "The second start on the same host, page cache empty, " + l, Head: append([]string{"image"}, contenders...),
		Note: "Seconds, and the share of the first start's bytes that did not cross the link again."}
	for _, image := range images {
		cells := []string{image}
		for _, c := range contenders {
			first, again := f.at(kindStart, l, image, c), f.at(kindSecond, l, image, c)
			if first == nil || again == nil || first.bytes == 0 {
				cells = append(cells, "–")
				continue
			}
			cells = append(cells, fmt.Sprintf("%.2f, %.1f %%", again.total, 100*max(0, 1-again.bytes/first.bytes)))
		}
		t.add(cells...)
	}
	return t
}

// needsTable has the share of an image that its start reads, and what a start brings.
func (f *figures) needsTable() *table {
	t := &table{Title: "What a start needs of an image", Head: []string{"image", "compressed, MB", "needed, MB", "share", "fetched without a profile, MB", "with one, MB"},
		Note: "Needed are the frames of 64 KiB, as they are stored, that the recorded start has read, without the file system's metadata. Slacker counted 6.4 % at the mean."}
	var shares []float64
	for _, image := range f.images {
		n, ok := f.needs[image]
		if !ok || n.Compressed == 0 {
			continue
		}
		share := float64(n.Needed) / float64(n.Compressed)
		shares = append(shares, share)
		cells := []string{image, fmt.Sprintf("%.1f", float64(n.Compressed)/1e6), fmt.Sprintf("%.2f", float64(n.Needed)/1e6), fmt.Sprintf("%.1f %%", 100*share)}
		for _, c := range []string{rivuletCold, rivuletProfile} {
			text := "–"
			for _, l := range slices.Backward(f.links) {
				if x := f.at(kindStart, l, image, c); x != nil {
					text = fmt.Sprintf("%.1f", x.bytes/1e6)
					break
				}
			}
			cells = append(cells, text)
		}
		t.add(cells...)
	}
	if len(shares) > 0 {
		t.add("median", "", "", fmt.Sprintf("%.1f %%", 100*median(shares)), "", "")
	}
	return t
}

func (f *figures) developTable() *table {
	t := &table{Title: "The cycle of development: a file changes; build, publish, start", Head: []string{"link", "image", "contender", "rounds", "build and publish, s", "pull, s", "create, s", "ready, s", "in all, s", "MB up", "MB down"},
		Note: "The host has run the version before. Building and publishing happen beyond the link too."}
	for _, l := range slices.Backward(f.links) {
		for _, image := range f.images {
			for _, c := range f.contenders {
				if x := f.at(kindDevelop, l, image, c); x != nil {
					t.add(l, image, c, fmt.Sprint(x.rounds), fmt.Sprintf("%.2f", x.publish), fmt.Sprintf("%.2f", x.pull), fmt.Sprintf("%.2f", x.create),
						fmt.Sprintf("%.2f", x.ready), fmt.Sprintf("%.2f", x.total), fmt.Sprintf("%.2f", x.up/1e6), fmt.Sprintf("%.2f", x.bytes/1e6))
				}
			}
		}
	}
	return t
}

func (f *figures) steadyTable() *table {
	t := &table{Title: "Steady state, all of the disk read before", Head: []string{"", plain, rivuletProfile, "rivulet ÷ plain"}}
	for _, w := range steadyWorks {
		local, ours := f.steady[[2]string{w.name, plain}], f.steady[[2]string{w.name, rivuletProfile}]
		if len(local) > 0 && len(ours) > 0 {
			t.add(w.about, fmt.Sprintf("%.0f", median(local)), fmt.Sprintf("%.0f", median(ours)), fmt.Sprintf("%.2f", median(ours)/median(local)))
		}
	}
	return t
}

// markdown writes a table.
func (t *table) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n", t.Title)
	if t.Note != "" {
		fmt.Fprintf(&b, "%s\n\n", t.Note)
	}
	row := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	row(t.Head)
	rule := make([]string, len(t.Head))
	for i := range rule {
		rule[i] = "---"
		if i > 0 && t.Title != "What was to be held" {
			rule[i] = "---:"
		}
	}
	row(rule)
	for _, r := range t.Rows {
		row(r)
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
