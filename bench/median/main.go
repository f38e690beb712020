// Median turns repeated measurements into a Markdown table.
//
//	median -unit UNIT [-digits N] [-plot FILE.svg] < measurements
//
// A line of input is CASE, SUBJECT, VALUE, separated by tabs; the nth line of a
// case and subject is its nth round. A row is a case, a column a subject: the
// median of the rounds, and the smallest and largest. For each subject after the
// first there is one more column, the median of the rounds' ratios first/other, so
// that a slow minute of the machine, which meets both, cancels out. With -plot the
// medians are drawn too, a bar for each, with a line from the smallest to the largest.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// A table holds values by case and subject, both in the order of their first line.
type table struct {
	cases, subjects []string
	values          map[[2]string][]float64
}

func main() {
	unit := flag.String("unit", "", "what is measured, for the heading")
	digits := flag.Int("digits", 0, "digits after the point")
	plot := flag.String("plot", "", "file to draw the medians in, as SVG")
	flag.Parse()
	t, err := read(os.Stdin)
	if err == nil {
		err = t.write(os.Stdout, *unit, *digits)
	}
	if err == nil && *plot != "" {
		err = os.WriteFile(*plot, t.draw(*unit), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "median:", err)
		os.Exit(1)
	}
}

func read(r io.Reader) (*table, error) {
	t := &table{values: make(map[[2]string][]float64)}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Split(lines.Text(), "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("line %q: want 3 fields", lines.Text())
		}
		v, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", lines.Text(), err)
		}
		if !slices.Contains(t.cases, f[0]) {
			t.cases = append(t.cases, f[0])
		}
		if !slices.Contains(t.subjects, f[1]) {
			t.subjects = append(t.subjects, f[1])
		}
		key := [2]string{f[0], f[1]}
		t.values[key] = append(t.values[key], v)
	}
	if len(t.cases) == 0 {
		return nil, errors.Join(errors.New("no measurements"), lines.Err())
	}
	return t, lines.Err()
}

func (t *table) write(w io.Writer, unit string, digits int) error {
	head, rule := []string{unit}, "| --- |"
	for _, s := range t.subjects {
		head, rule = append(head, s), rule+" ---: |"
	}
	for _, s := range t.subjects[1:] {
		head, rule = append(head, t.subjects[0]+" / "+s), rule+" ---: |"
	}
	lines := []string{row(head), rule}
	for _, c := range t.cases {
		cells := []string{c}
		for _, s := range t.subjects {
			cells = append(cells, summary(t.values[[2]string{c, s}], digits))
		}
		for _, s := range t.subjects[1:] {
			cells = append(cells, ratio(t.values[[2]string{c, t.subjects[0]}], t.values[[2]string{c, s}]))
		}
		lines = append(lines, row(cells))
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}

func row(cells []string) string { return "| " + strings.Join(cells, " | ") + " |" }

func summary(v []float64, digits int) string {
	if len(v) == 0 {
		return "–"
	}
	if len(v) == 1 {
		return fmt.Sprintf("%.*f", digits, v[0])
	}
	return fmt.Sprintf("%.*f (%.*f to %.*f)", digits, median(v), digits, slices.Min(v), digits, slices.Max(v))
}

func ratio(first, other []float64) string {
	var ratios []float64
	for i := range min(len(first), len(other)) {
		if other[i] != 0 {
			ratios = append(ratios, first[i]/other[i])
		}
	}
	if len(ratios) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", median(ratios))
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
