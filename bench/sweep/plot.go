package main

import (
	"bytes"
	"fmt"
	"math"
	"os"

	"github.com/rivuletfs/rivulet/layout"
)

// The plot's measures, in its own units.
const (
	plotWidth, plotHeight = 960, 480
	plotLeft, plotTop     = 70, 30
	plotRight, plotBottom = 610, 420
)

// An axis maps values to places.
type axis struct{ low, high, from, to, step float64 }

func (a axis) at(v float64) float64 { return a.from + (v-a.low)/(a.high-a.low)*(a.to-a.from) }

// newAxis spans values in steps that are easy to read.
func newAxis(values []float64, from, to float64) axis {
	low, high := values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
	}
	step := math.Pow(10, math.Floor(math.Log10(max(high-low, 1e-6))))
	if (high-low)/step < 3 {
		step /= 5
	}
	return axis{math.Floor(low/step) * step, math.Ceil(high/step) * step, from, to, step}
}

// writePlot draws, for each layout, the share of chunks that updates make new
// over what chunks cost beyond whole files.
func writePlot(name string, measured [][]figures) error {
	var x, y []float64
	for _, list := range measured {
		for i := range list {
			mean, _ := spread(list[i].renewed)
			x, y = append(x, list[i].unique), append(y, 100*mean)
		}
	}
	h, v := newAxis(x, plotLeft, plotRight), newAxis(y, plotBottom, plotTop)
	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", plotWidth, plotHeight)
	drawAxes(&b, h, v)
	k := 0
	for t, list := range measured {
		for i := range list {
			drawDot(&b, h.at(x[k]), v.at(y[k]), tables[t].colour, &list[i])
			k++
		}
	}
	drawKey(&b)
	b.WriteString("</svg>\n")
	return os.WriteFile(name, b.Bytes(), 0o644)
}

// drawDot draws one layout: the default in a ring, other chunk sizes with a name.
func drawDot(b *bytes.Buffer, x, y float64, colour string, f *figures) {
	fmt.Fprintf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\" fill-opacity=\"0.7\"><title>chunk %s, large from %s, bin from %s, %s</title></circle>\n",
		x, y, colour, sizeName(f.Chunk), sizeName(f.Large), sizeName(f.MinBin), f.rule.name)
	if f.Params == layout.Default && f.rule.ends == nil {
		fmt.Fprintf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"9\" fill=\"none\" stroke=\"black\" stroke-width=\"2\"/>\n", x, y)
	}
	if f.Chunk != layout.Default.Chunk {
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" fill=\"#555\">%s</text>\n", x+6, y-5, sizeName(f.Chunk))
	}
}

func drawAxes(b *bytes.Buffer, h, v axis) {
	fmt.Fprintf(b, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"black\"/>\n", plotLeft, plotTop, plotBottom, plotRight)
	for t := h.low; t <= h.high+h.step/2; t += h.step {
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.3f</text>\n", h.at(t), plotBottom+18, t)
	}
	for t := v.low; t <= v.high+v.step/2; t += v.step {
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.0f %%</text>\n", plotLeft-6, v.at(t)+4, t)
	}
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">bytes of unique chunks over bytes of unique files</text>\n", (plotLeft+plotRight)/2, plotBottom+42)
	fmt.Fprintf(b, "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">data chunks new after an update, mean</text>\n", (plotTop+plotBottom)/2)
}

func drawKey(b *bytes.Buffer) {
	y := plotTop + 10
	for _, t := range tables {
		fmt.Fprintf(b, "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n", plotRight+16, y-4, t.colour, plotRight+26, y, t.title)
		y += 20
	}
	fmt.Fprintf(b, "<circle cx=\"%d\" cy=\"%d\" r=\"7\" fill=\"none\" stroke=\"black\" stroke-width=\"2\"/><text x=\"%d\" y=\"%d\">default</text>\n", plotRight+16, y-4, plotRight+26, y)
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
