package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// How much a ratio to the plain pull may grow until the gate fails: at the median of the images that both
// runs have, if they are gateImages at least, and on one image, where a few rounds say less.
const (
	gateMedian = 1.10
	gateImages = 3
	gateImage  = 1.40
)

// gateCommand compares a run with the last recorded one.
func gateCommand(_ context.Context, args []string) error {
	f := flag.NewFlagSet("gate", flag.ContinueOnError)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 2 {
		return errors.New("want two files of results: OLD NEW")
	}
	before, err := readResults(f.Args()[:1])
	if err != nil {
		return err
	}
	after, err := readResults(f.Args()[1:])
	if err != nil {
		return err
	}
	return gate(os.Stdout, analyse(before), analyse(after))
}

// gate prints how each contender's ratio to the plain pull has changed, and fails if one of ours grew.
// Seconds are not compared: they are the machine's. What differs of that, or of the programs, is printed.
func gate(w io.Writer, before, after *figures) error {
	differs := func(side string, facts, others []string) {
		facts = slices.DeleteFunc(slices.Clone(facts), func(fact string) bool { return slices.Contains(others, fact) })
		if len(facts) > 0 {
			fmt.Fprintf(w, "%s: %s\n", side, strings.Join(facts, "; "))
		}
	}
	differs("only before", before.facts, after.facts)
	differs("only now", after.facts, before.facts)
	compared := 0
	var worse []error
	for _, l := range after.links {
		for _, c := range after.contenders {
			var growth []float64
			for _, image := range after.images {
				was, is := before.ratio(kindStart, l, image, c, plain), after.ratio(kindStart, l, image, c, plain)
				if c == plain || was == 0 || is == 0 {
					continue
				}
				growth = append(growth, is/was)
				if ours(c) && is/was > gateImage {
					worse = append(worse, fmt.Errorf("%s, %s, %s: %.2f × plain, it was %.2f", l, image, c, is, was))
				}
			}
			if len(growth) == 0 {
				continue
			}
			if ours(c) { // peers alone say nothing, as when all of ours fail
				compared += len(growth)
			}
			fmt.Fprintf(w, "%s, %s: %.2f × what it was beside plain, at the median of %d images\n", l, c, median(growth), len(growth))
			if ours(c) && len(growth) >= gateImages && median(growth) > gateMedian {
				worse = append(worse, fmt.Errorf("%s, %s: %.2f × what it was at the median, at most %.2f is allowed", l, c, median(growth), gateMedian))
			}
		}
	}
	if compared == 0 {
		return errors.New("the two have nothing in common of rivulet's that could be compared")
	}
	return errors.Join(worse...)
}

// ours reports whether a contender is rivulet.
func ours(contender string) bool {
	switch contender {
	case rivuletCold, rivuletProfile, rivuletPack, rivuletL1, rivuletL2:
		return true
	}
	return false
}
