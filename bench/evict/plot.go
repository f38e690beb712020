package main

import (
	"bytes"
	"fmt"
	"math"
	"os"

	"github.com/rivuletfs/rivulet/store/cache/evict/simulate"
)

// The plot's measures, in its own units: panels in rows of three.
const (
	panelWidth, panelHeight = 300, 230
	panelLeft, panelTop     = 45, 30
	panelRight, panelBottom = 285, 190
	perRow                  = 3
	keyHeight               = 30
)

// writePlot draws a panel for each trace: hit ratio over the size of the cache,
// which is logarithmic.
func writePlot(name string, list []*simulate.Trace, compared []figures, best figures) error {
	rows := (len(list) + perRow - 1) / perRow
	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"11\">\n",
		perRow*panelWidth, rows*panelHeight+keyHeight)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", perRow*panelWidth, rows*panelHeight+keyHeight)
	for t, trace := range list {
		fmt.Fprintf(&b, "<g transform=\"translate(%d %d)\">\n", t%perRow*panelWidth, t/perRow*panelHeight)
		drawPanel(&b, trace.Name)
		for s := range subjects {
			if subjects[s].colour != "" {
				drawLine(&b, subjects[s].colour, "", compared[s][t])
			}
		}
		drawLine(&b, "black", " stroke-dasharray=\"3 3\"", best[t])
		fmt.Fprintf(&b, "</g>\n")
	}
	drawKey(&b, rows*panelHeight+12)
	b.WriteString("</svg>\n")
	return os.WriteFile(name, b.Bytes(), 0o644)
}

func across(share int) float64 {
	low, high := math.Log(float64(shares[0])), math.Log(float64(shares[len(shares)-1]))
	return panelLeft + (math.Log(float64(share))-low)/(high-low)*(panelRight-panelLeft)
}

func up(ratio float64) float64 { return panelBottom - ratio*(panelBottom-panelTop) }

func drawPanel(b *bytes.Buffer, title string) {
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" font-weight=\"bold\">%s</text>\n", (panelLeft+panelRight)/2, panelTop-12, title)
	fmt.Fprintf(b, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"black\"/>\n", panelLeft, panelTop, panelBottom, panelRight)
	for _, share := range shares {
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d %%</text>\n", across(share), panelBottom+15, share)
	}
	for tick := 0; tick <= 100; tick += 25 {
		y := up(float64(tick) / 100)
		fmt.Fprintf(b, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d %%</text>\n",
			panelLeft, y, panelRight, panelLeft-4, y+4, tick)
	}
}

func drawLine(b *bytes.Buffer, colour, style string, results []simulate.Result) {
	fmt.Fprintf(b, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"%s points=\"", colour, style)
	for i := range shares {
		fmt.Fprintf(b, "%.1f,%.1f ", across(shares[i]), up(results[i].HitRatio()))
	}
	fmt.Fprintf(b, "\"/>\n")
}

func drawKey(b *bytes.Buffer, y int) {
	x := panelLeft
	entry := func(colour, style, name string) {
		fmt.Fprintf(b, "<path d=\"M%d %dh24\" stroke=\"%s\" stroke-width=\"2\"%s/><text x=\"%d\" y=\"%d\">%s</text>\n", x, y, colour, style, x+30, y+4, name)
		x += 110
	}
	for _, s := range subjects {
		if s.colour != "" {
			entry(s.colour, "", s.name)
		}
	}
	entry("black", " stroke-dasharray=\"3 3\"", "Belady")
}
