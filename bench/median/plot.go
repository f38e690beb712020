package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
)

// The plot's measures, in its own units.
const (
	barWidth, barGap   = 18, 26 // of a bar; between cases
	barHeight          = 260    // of the largest
	leftEdge, topEdge  = 60, 40
	bottomEdge         = 40
	legendWidth, ticks = 150, 5
)

var colours = []string{"#1b6ca8", "#e08e0b", "#7a7a7a", "#3c8d40", "#9c4f96", "#c0392b"}

// colour returns the colour of the kth subject: no other's.
func colour(k int) string {
	if k < len(colours) {
		return colours[k]
	}
	return fmt.Sprintf("hsl(%d,65%%,65%%)", k*137%360)
}

// draw returns the medians as bars, one group a case, with their ranges.
func (t *table) draw(unit string) []byte {
	most := 0.0
	for _, v := range t.values {
		most = max(most, slices.Max(v))
	}
	step := tickStep(most)
	y := func(v float64) float64 { return topEdge + barHeight - v/(step*ticks)*barHeight }
	group := len(t.subjects)*barWidth + barGap
	width := max(leftEdge+len(t.cases)*group, leftEdge+len(t.subjects)*legendWidth)
	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", width, topEdge+barHeight+bottomEdge)
	fmt.Fprintf(&b, "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"4\" y=\"%d\">%s</text>\n", topEdge-6, html.EscapeString(unit))
	for i := range ticks + 1 {
		v := float64(i) * step
		fmt.Fprintf(&b, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", leftEdge, y(v), width, leftEdge-6, y(v)+4, v)
	}
	for k, s := range t.subjects {
		fmt.Fprintf(&b, "<rect x=\"%d\" y=\"8\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"18\">%s</text>\n",
			leftEdge+k*legendWidth, colour(k), leftEdge+k*legendWidth+18, html.EscapeString(s))
	}
	for i, c := range t.cases {
		left := leftEdge + i*group + barGap/2
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", left+len(t.subjects)*barWidth/2, topEdge+barHeight+18, html.EscapeString(c))
		for k, s := range t.subjects {
			v := t.values[[2]string{c, s}]
			if len(v) == 0 {
				continue
			}
			x, m := left+k*barWidth, median(v)
			fmt.Fprintf(&b, "<rect x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" fill=\"%s\"/><path d=\"M%d %.1fV%.1f\" stroke=\"black\"/>\n",
				x, y(m), barWidth-3, y(0)-y(m), colour(k), x+barWidth/2-1, y(slices.Min(v)), y(slices.Max(v)))
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// tickStep returns a round distance of the axis's ticks, so that they reach most.
func tickStep(most float64) float64 {
	if most <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(most/ticks)))
	for _, round := range []float64{1, 2, 5} {
		if round*unit*ticks >= most {
			return round * unit
		}
	}
	return 10 * unit
}
