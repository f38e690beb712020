package main

import (
	"cmp"
	"math"
	"slices"
)

// A key says what was measured.
type key struct{ kind, link, image, contender string }

// A cell is the medians of the rounds of one key.
type cell struct {
	rounds                int
	publish               float64 // build and publish
	pull, create, ready   float64
	total, low, high, p95 float64 // p95 from 20 rounds on, else 0
	bytes, up, requests   float64
	totals                []float64
}

// Figures are the results of runs, by what was measured.
type figures struct {
	cells map[key]*cell
	needs map[string]result // by image
	// steady has rates by work and contender.
	steady map[[2]string][]float64
	facts  []string
	// In the order in which they were measured; contenders and links in their own.
	links, images, contenders []string
}

// order is that of links and contenders in tables.
var (
	linkOrder      = []string{"loopback", "1gbit-1ms", "100mbit-30ms"}
	contenderOrder = []string{plain, erofs, stargz, stargzBest, soci, rivuletCold, rivuletProfile, rivuletPack, rivuletL1, rivuletL2}
)

const minP95 = 20

func analyse(results []result) *figures {
	f := &figures{cells: map[key]*cell{}, needs: map[string]result{}, steady: map[[2]string][]float64{}}
	grouped := map[key][]result{}
	for _, r := range results {
		switch r.Kind {
		case kindMachine:
			for _, fact := range r.Facts {
				f.facts = add(f.facts, fact)
			}
			continue
		case kindNeeds:
			f.needs[r.Image] = r
			continue
		case kindSteady:
			k := [2]string{r.Work, r.Contender}
			f.steady[k] = append(f.steady[k], r.Rate)
			continue
		}
		k := key{r.Kind, r.Link, r.Image, r.Contender}
		grouped[k] = append(grouped[k], r)
		f.links, f.images, f.contenders = add(f.links, r.Link), add(f.images, r.Image), add(f.contenders, r.Contender)
	}
	for k, list := range grouped {
		f.cells[k] = summarise(list)
	}
	slices.SortFunc(f.links, func(a, b string) int { return cmp.Compare(slices.Index(linkOrder, a), slices.Index(linkOrder, b)) })
	slices.SortFunc(f.contenders, func(a, b string) int {
		return cmp.Compare(slices.Index(contenderOrder, a), slices.Index(contenderOrder, b))
	})
	return f
}

func add(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func summarise(list []result) *cell {
	of := func(value func(*result) float64) []float64 {
		values := make([]float64, len(list))
		for i := range list {
			values[i] = value(&list[i])
		}
		return values
	}
	c := &cell{rounds: len(list), totals: of((*result).total)}
	c.total, c.low, c.high = median(c.totals), slices.Min(c.totals), slices.Max(c.totals)
	if len(list) >= minP95 {
		sorted := slices.Sorted(slices.Values(c.totals))
		c.p95 = sorted[int(math.Ceil(0.95*float64(len(sorted))))-1]
	}
	c.publish = median(of(func(r *result) float64 { return r.Build + r.Publish }))
	c.pull = median(of(func(r *result) float64 { return r.Pull }))
	c.create = median(of(func(r *result) float64 { return r.Create }))
	c.ready = median(of(func(r *result) float64 { return r.Ready }))
	c.bytes = median(of(func(r *result) float64 { return float64(r.Bytes) }))
	c.up = median(of(func(r *result) float64 { return float64(r.Up) }))
	c.requests = median(of(func(r *result) float64 { return float64(r.Requests) }))
	return c
}

// at returns the cell of a start, nil if it was not measured.
func (f *figures) at(kind, link, image, contender string) *cell {
	return f.cells[key{kind, link, image, contender}]
}

// ratio is how long a contender took, in times of another; 0: one of them was not measured.
func (f *figures) ratio(kind, link, image, contender, to string) float64 {
	a, b := f.at(kind, link, image, contender), f.at(kind, link, image, to)
	if a == nil || b == nil || b.total == 0 {
		return 0
	}
	return a.total / b.total
}

// ratios are those of all images, and the images.
func (f *figures) ratios(link, contender, to string, whole bool) (values []float64, images []string) {
	for _, image := range f.images {
		if isWhole(image) != whole {
			continue
		}
		if r := f.ratio(kindStart, link, image, contender, to); r > 0 {
			values, images = append(values, r), append(images, image)
		}
	}
	return values, images
}

// isWhole reports whether a workload reads everything.
func isWhole(name string) bool {
	return slices.ContainsFunc(wholes, func(w workload) bool { return w.Name == name })
}

// measured returns the contenders and images that a link has starts of.
func (f *figures) measured(kind, link string, whole bool) (images, contenders []string) {
	for _, image := range f.images {
		if isWhole(image) == whole && slices.ContainsFunc(f.contenders, func(c string) bool { return f.at(kind, link, image, c) != nil }) {
			images = append(images, image)
		}
	}
	for _, c := range f.contenders {
		if slices.ContainsFunc(images, func(i string) bool { return f.at(kind, link, i, c) != nil }) {
			contenders = append(contenders, c)
		}
	}
	return images, contenders
}

// floor is what no lazy start can beat: the start with everything local, what it needs by
// the link's bandwidth, and five round trips. 0: it is not known.
func (f *figures) floor(l link, image string) float64 {
	local, needs := f.at(kindSecond, l.Name, image, plain), f.needs[image]
	if local == nil || needs.Needed == 0 || l.Rate == 0 {
		return 0
	}
	return local.total + float64(needs.Needed)*8/float64(l.Rate) + 5*l.Delay.Seconds()
}
