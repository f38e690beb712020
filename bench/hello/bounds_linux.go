package main

import (
	"fmt"
	"slices"
	"strings"
)

// A bound is one of the project's goals, and what came of it.
type bound struct {
	Goal string
	Met  string // yes, no, or that it was not measured
	How  string
}

const (
	met         = "met"
	missed      = "missed"
	notMeasured = "not measured"
)

// farLink is the link that most goals are about.
const farLink = "100mbit-30ms"

// bounds judges all goals by what was measured.
func (f *figures) bounds() []bound {
	list := []bound{
		f.everyImage("without a profile, at most 0.5 × a plain pull on every image", rivuletCold, plain, 0.5),
	}
	for _, other := range []string{stargz, soci, erofs} {
		list = append(list, f.everyImage("without a profile, ahead of "+other+" on every image", rivuletCold, other, 1))
	}
	list = append(list,
		f.everyImage("with a profile, at most 0.25 × a plain pull on every image", rivuletProfile, plain, 0.25),
		f.atMedian("with a profile, at most 0.6 × eStargz optimised, at the median", rivuletProfile, stargzBest, 0.6),
		f.beside("with a profile, beside the floor: local start, frames needed by the bandwidth, five round trips"))
	for _, l := range f.links {
		list = append(list, f.reading(l))
	}
	return append(list, f.steadyBounds()...)
}

func (f *figures) everyImage(goal, contender, to string, limit float64) bound {
	values, images := f.ratios(farLink, contender, to, false)
	if len(values) == 0 {
		return bound{goal, notMeasured, ""}
	}
	var over []string
	for i, v := range values {
		if v <= limit {
			continue
		}
		text := fmt.Sprintf("%s %.2f", images[i], v)
		if floor := f.floorRatio(images[i], to); contender == rivuletProfile && floor > limit {
			text += fmt.Sprintf(" (its floor is %.2f)", floor)
		}
		over = append(over, text)
	}
	how := fmt.Sprintf("median %.2f, %.2f to %.2f over %d images", median(values), slices.Min(values), slices.Max(values), len(values))
	if len(over) == 0 {
		return bound{goal, met, how}
	}
	return bound{goal, missed, fmt.Sprintf("%s; missed on %d: %s", how, len(over), strings.Join(over, ", "))}
}

// floorRatio is the floor of an image on the far link, in times of a contender; 0: it is not known.
func (f *figures) floorRatio(image, to string) float64 {
	c := f.at(kindStart, farLink, image, to)
	if c == nil {
		return 0
	}
	i := slices.IndexFunc(links, func(l link) bool { return l.Name == farLink })
	return f.floor(links[i], image) / c.total
}

func (f *figures) atMedian(goal, contender, to string, limit float64) bound {
	values, _ := f.ratios(farLink, contender, to, false)
	if len(values) == 0 {
		return bound{goal, notMeasured, ""}
	}
	b := bound{goal, met, fmt.Sprintf("median %.2f, %.2f to %.2f over %d images", median(values), slices.Min(values), slices.Max(values), len(values))}
	if median(values) > limit {
		b.Met = missed
	}
	return b
}

// beside has no limit of its own: it is reported.
func (f *figures) beside(goal string) bound {
	i := slices.IndexFunc(links, func(l link) bool { return l.Name == farLink })
	var values []float64
	for _, image := range f.images {
		if c, floor := f.at(kindStart, farLink, image, rivuletProfile), f.floor(links[i], image); c != nil && floor > 0 {
			values = append(values, c.total/floor)
		}
	}
	if len(values) == 0 {
		return bound{goal, notMeasured, ""}
	}
	return bound{goal, "reported", fmt.Sprintf("median %.2f ×, %.2f to %.2f over %d images", median(values), slices.Min(values), slices.Max(values), len(values))}
}

func (f *figures) reading(l string) bound {
	const limit = 1.05
	goal := "reading everything, at most 1.05 × a plain pull, " + l
	var how []string
	result := notMeasured
	for _, contender := range []string{rivuletCold, rivuletProfile} {
		values, images := f.ratios(l, contender, plain, true)
		for i, v := range values {
			how = append(how, fmt.Sprintf("%s %s %.2f", contender, images[i], v))
			if v > limit {
				result = missed
			} else if result == notMeasured {
				result = met
			}
		}
	}
	return bound{goal, result, strings.Join(how, ", ")}
}

// Works of the steady state, and the least rate beside a local disk.
var steadyWorks = []struct {
	name, about string
	least       float64
}{
	{"stat", "stat of every file, warm, files/s", 0.95},
	{"read", "reading every file, warm, MB/s", 0.95},
	{"cold", "reading every file, page cache empty, MB/s", 0.8},
}

func (f *figures) steadyBounds() (list []bound) {
	for _, w := range steadyWorks {
		goal := fmt.Sprintf("steady state: %s, at least %.2f × overlayfs on a local disk", w.about, w.least)
		local, ours := median(f.steady[[2]string{w.name, plain}]), median(f.steady[[2]string{w.name, rivuletProfile}])
		if local == 0 || ours == 0 {
			list = append(list, bound{goal, notMeasured, ""})
			continue
		}
		b := bound{goal, met, fmt.Sprintf("%.2f × (%.0f beside %.0f)", ours/local, ours, local)}
		if ours < w.least*local {
			b.Met = missed
		}
		list = append(list, b)
	}
	return list
}
