package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"time"
)

// The plot's measures, in its own units: one panel a condition.
const (
	panelWidth, panelHeight = 250, 260
	panelGap                = 30
	plotLeft, plotTop       = 60, 40
	plotBottom              = 70
	leastMillis, mostMillis = 0.3, 1000.0
	mostNines               = 3.5
)

// writePlot draws the distributions of times, one panel a condition, with an axis
// that makes room for the slowest reads.
func writePlot(name string, results []*result) error {
	var b bytes.Buffer
	width := plotLeft + len(conditions)*(panelWidth+panelGap)
	height := plotTop + panelHeight + plotBottom
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", width, height)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", width, height)
	for i, c := range conditions {
		left := float64(plotLeft + i*(panelWidth+panelGap))
		drawPanel(&b, left, c.name, i == 0)
		for _, r := range results {
			if r.condition.name == c.name {
				drawCurve(&b, left, r)
			}
		}
	}
	for i, s := range schemes {
		x := plotLeft + i*160
		fmt.Fprintf(&b, "<path d=\"M%d %dh24\" stroke=\"%s\" stroke-width=\"2\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
			x, height-14, s.colour, x+30, height-10, s.name)
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(name, b.Bytes(), 0o644)
}

// across returns where a time lies in a panel.
func across(left float64, d time.Duration) float64 {
	ms := min(mostMillis, max(leastMillis, d.Seconds()*1000))
	return left + panelWidth*math.Log10(ms/leastMillis)/math.Log10(mostMillis/leastMillis)
}

// up returns where a share of the reads lies: by the nines.
func up(share float64) float64 {
	nines := min(mostNines, -math.Log10(max(1-share, 1e-9)))
	return plotTop + panelHeight*(1-nines/mostNines)
}

func drawPanel(b *bytes.Buffer, left float64, title string, first bool) {
	fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%d\" font-weight=\"bold\">%s</text>\n", left, plotTop-14, title)
	fmt.Fprintf(b, "<path d=\"M%.1f %dv%dh%d\" fill=\"none\" stroke=\"black\"/>\n", left, plotTop, panelHeight, panelWidth)
	for _, ms := range []float64{1, 10, 100, 1000} {
		x := across(left, time.Duration(ms*float64(time.Millisecond)))
		fmt.Fprintf(b, "<path d=\"M%.1f %dv%d\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f ms</text>\n",
			x, plotTop, panelHeight, x, plotTop+panelHeight+18, ms)
	}
	for _, share := range []float64{0, 0.5, 0.9, 0.99, 0.999} {
		y := up(share)
		fmt.Fprintf(b, "<path d=\"M%.1f %.1fh%d\" stroke=\"#ddd\"/>\n", left, y, panelWidth)
		if first {
			fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g %%</text>\n", left-6, y+4, 100*share)
		}
	}
}

func drawCurve(b *bytes.Buffer, left float64, r *result) {
	fmt.Fprintf(b, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" d=\"", r.colour)
	const points = 200
	for i := range points {
		share := 1 - math.Pow(10, -mostNines*float64(i)/points)
		if share > 1-1/float64(len(r.times)) {
			break
		}
		sep := "L"
		if i == 0 {
			sep = "M"
		}
		fmt.Fprintf(b, "%s%.1f %.1f", sep, across(left, within(r.times, share)), up(share))
	}
	b.WriteString("\"/>\n")
}
