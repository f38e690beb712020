package main

import (
	"bytes"
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
)

// Colours of contenders; those that are rivulet are blue and green.
var colours = map[string]string{
	plain: "#7a7a7a", erofs: "#b08d57", stargz: "#e08e0b", stargzBest: "#c0392b", soci: "#9c4f96",
	rivuletCold: "#9ecae1", rivuletProfile: "#1b6ca8", rivuletPack: "#08306b", rivuletL1: "#74c476", rivuletL2: "#238b45",
}

// A drawing is an SVG picture being made, in its own units.
type drawing struct {
	b             bytes.Buffer
	width, height float64
}

func (d *drawing) line(x1, y1, x2, y2 float64, colour string) {
	fmt.Fprintf(&d.b, `<path d="M%.1f %.1fL%.1f %.1f" stroke="%s"/>`, x1, y1, x2, y2, colour)
}

func (d *drawing) text(x, y float64, anchor, s string) {
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, x, y, anchor, html.EscapeString(s))
}

func (d *drawing) box(x, y, w, h float64, colour string, opacity float64, title string) {
	fmt.Fprintf(&d.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" fill-opacity="%.2f"><title>%s</title></rect>`,
		x, y, w, h, colour, opacity, html.EscapeString(title))
}

// legend names contenders above a picture.
func (d *drawing) legend(left float64, contenders []string) {
	for i, c := range contenders {
		x := left + float64(i)*110
		d.box(x, 6, 10, 10, colours[c], 1, c)
		d.text(x+14, 15, "start", c)
	}
	d.width = max(d.width, left+float64(len(contenders))*110)
}

func (d *drawing) svg() template.HTML {
	// All text in it went through html.EscapeString.
	return template.HTML(fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" font-family="sans-serif" font-size="11" fill="none"><g fill="#222" stroke="none">%s</g></svg>`,
		d.width, d.height, d.width, d.b.String())) //nolint:gosec // see above
}

// bars draws pull, create and ready on top of one another: an image a group, a contender a bar.
func (f *figures) bars(l string, whole bool) template.HTML {
	const left, top, tall, bar, gap = 46.0, 30.0, 240.0, 9.0, 14.0
	images, contenders := f.measured(kindStart, l, whole)
	most := 0.0
	for _, image := range images {
		for _, c := range contenders {
			if x := f.at(kindStart, l, image, c); x != nil {
				most = max(most, x.pull+x.create+x.ready)
			}
		}
	}
	if most == 0 {
		return ""
	}
	group := float64(len(contenders))*bar + gap
	d := &drawing{width: left + group*float64(len(images)), height: top + tall + 70}
	d.legend(left, contenders)
	step := tickStep(most, 5)
	scale := tall / (step * math.Ceil(most/step))
	for v := 0.0; v <= most+step*0.99; v += step {
		y := top + tall - v*scale
		d.line(left, y, d.width, y, "#ddd")
		d.text(left-4, y+4, "end", fmt.Sprintf("%g s", math.Round(v*1000)/1000))
	}
	for i, image := range images {
		x := left + float64(i)*group + gap/2
		for k, c := range contenders {
			cell := f.at(kindStart, l, image, c)
			if cell == nil {
				continue
			}
			y := top + tall
			title := fmt.Sprintf("%s, %s: pull %.2f s, create %.2f s, ready %.2f s", image, c, cell.pull, cell.create, cell.ready)
			for part, seconds := range []float64{cell.pull, cell.create, cell.ready} {
				y -= seconds * scale
				d.box(x+float64(k)*bar, y, bar-1.5, seconds*scale, colours[c], []float64{1, 0.35, 0.7}[part], title)
			}
		}
		fmt.Fprintf(&d.b, `<g transform="translate(%.1f %.1f) rotate(-35)"><text text-anchor="end">%s</text></g>`, x+group/2-gap/2, top+tall+14, html.EscapeString(image))
	}
	return d.svg()
}

// distribution draws which share of all images was ready after how long, or, beside plain,
// after which part of a plain pull.
func (f *figures) distribution(l string, beside bool) template.HTML {
	const left, top, wide, tall = 46.0, 30.0, 640.0, 220.0
	images, contenders := f.measured(kindStart, l, false)
	most, least := 0.0, math.Inf(1)
	curves := map[string][]float64{}
	for _, c := range contenders {
		for _, image := range images {
			x := f.at(kindStart, l, image, c)
			if x == nil {
				continue
			}
			v := x.total
			if beside {
				if v = f.ratio(kindStart, l, image, c, plain); v == 0 || c == plain {
					continue
				}
			}
			curves[c] = append(curves[c], v)
			most, least = max(most, v), min(least, v)
		}
	}
	if len(curves) == 0 || most == 0 {
		return ""
	}
	d := &drawing{width: left + wide + 20, height: top + tall + 30}
	d.legend(left, contenders)
	// Times of a pull and of a lazy start are an order apart.
	least, most = least*0.9, most*1.1
	x := func(v float64) float64 { return left + math.Log(v/least)/math.Log(most/least)*wide }
	y := func(share float64) float64 { return top + tall - share*tall }
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 1} {
		d.line(left, y(share), left+wide, y(share), "#ddd")
		d.text(left-4, y(share)+4, "end", fmt.Sprintf("%.0f %%", share*100))
	}
	unit := " s"
	if beside {
		unit = " ×"
	}
	for _, v := range logTicks(least, most) {
		d.line(x(v), top, x(v), top+tall, "#eee")
		d.text(x(v), top+tall+16, "middle", fmt.Sprintf("%g", v)+unit)
	}
	for _, c := range contenders {
		values := slices.Sorted(slices.Values(curves[c]))
		if len(values) == 0 {
			continue
		}
		fmt.Fprintf(&d.b, `<path fill="none" stroke-width="2" stroke="%s" d="M%.1f %.1f`, colours[c], x(values[0]), y(0))
		for i, v := range values {
			fmt.Fprintf(&d.b, "H%.1fV%.1f", x(v), y(float64(i+1)/float64(len(values))))
		}
		fmt.Fprintf(&d.b, `H%.1f"><title>%s</title></path>`, left+wide, html.EscapeString(c))
	}
	return d.svg()
}

// fetched draws the bytes that crossed the link against those that a start needs.
func (f *figures) fetched(l string) template.HTML {
	const left, top, wide, tall = 56.0, 30.0, 560.0, 360.0
	images, contenders := f.measured(kindStart, l, false)
	least, most := math.Inf(1), 0.0
	for _, image := range images {
		n := float64(f.needs[image].Needed)
		for _, c := range contenders {
			if x := f.at(kindStart, l, image, c); x != nil && n > 0 && x.bytes > 0 {
				least, most = min(least, n, x.bytes), max(most, n, x.bytes)
			}
		}
	}
	if most == 0 {
		return ""
	}
	d := &drawing{width: left + wide + 20, height: top + tall + 40}
	d.legend(left, contenders)
	least, most = least*0.8, most*1.25
	part := func(v float64) float64 { return math.Log(v/least) / math.Log(most/least) }
	x, y := func(v float64) float64 { return left + part(v)*wide }, func(v float64) float64 { return top + tall - part(v)*tall }
	for _, v := range logTicks(least/1e6, most/1e6) {
		d.line(x(v*1e6), top, x(v*1e6), top+tall, "#eee")
		d.line(left, y(v*1e6), left+wide, y(v*1e6), "#eee")
		d.text(x(v*1e6), top+tall+14, "middle", fmt.Sprintf("%g", v))
		d.text(left-4, y(v*1e6)+4, "end", fmt.Sprintf("%g MB", v))
	}
	d.text(left+wide/2, top+tall+30, "middle", "needed, MB")
	d.line(x(least), y(least), x(most), y(most), "#999")
	for _, image := range images {
		n := float64(f.needs[image].Needed)
		for _, c := range contenders {
			if cell := f.at(kindStart, l, image, c); cell != nil && n > 0 && cell.bytes > 0 {
				fmt.Fprintf(&d.b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s" fill-opacity="0.8"><title>%s</title></circle>`, x(n), y(cell.bytes), colours[c],
					html.EscapeString(fmt.Sprintf("%s, %s: %.1f MB fetched, %.1f MB needed", image, c, cell.bytes/1e6, n/1e6)))
			}
		}
	}
	return d.svg()
}

// tickStep returns a round distance of at most n ticks that reach most.
func tickStep(most float64, n int) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(most/float64(n))))
	for _, round := range []float64{1, 2, 5} {
		if round*unit*float64(n) >= most {
			return round * unit
		}
	}
	return 10 * unit
}

// logTicks returns round values of 1, 2 and 5 within a range.
func logTicks(least, most float64) (ticks []float64) {
	for unit := math.Pow(10, math.Floor(math.Log10(least))); unit <= most; unit *= 10 {
		for _, round := range []float64{1, 2, 5} {
			if v := round * unit; v >= least && v <= most {
				ticks = append(ticks, v)
			}
		}
	}
	return ticks
}
