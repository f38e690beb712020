// Package plot draws a profile: which chunks starts read when, and what they waited
// for.
package plot

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"time"

	"github.com/rivuletfs/rivulet/profile"
)

// The picture, in pixels. Frames that fall into one cell are one mark, so its size is
// bounded whatever the profile.
const (
	width, height = 960, 600
	left, right   = 70, 20
	mapTop        = 70 // the map of chunks over time
	mapHeight     = 340
	waitTop       = 460 // the bars of waiting below it
	waitHeight    = 90
	cell          = 4
	columns       = (width - left - right) / cell
	rows          = mapHeight / cell
	ticks         = 5
)

// A class is what a mark says. Of several in one cell the last one shows.
type class int

const (
	none class = iota
	rare
	hit
	wait
)

var classes = [...]struct{ color, text string }{
	rare: {"#b0b0b0", "read by fewer than half of the starts: waste, more likely than not"},
	hit:  {"#2b6cb0", "at hand when it was read"},
	wait: {"#dd6b20", "waited for"},
}

// classOf returns the class of an entry of p.
func classOf(p *profile.Profile, e *profile.Entry) class {
	switch {
	case p.Rare(e):
		return rare
	case e.Waited > 0:
		return wait
	}
	return hit
}

// A Summary counts what a plot shows.
type Summary struct {
	Hits   int           // frames that were at hand
	Waits  int           // frames that readers waited for
	Rare   int           // frames that fewer than half of the starts read
	Waited time.Duration // for all of them, one by one
}

// Summarize counts the entries of p.
func Summarize(p *profile.Profile) Summary {
	var s Summary
	for i := range p.Entries {
		e := &p.Entries[i]
		s.Waited += e.Waited
		switch classOf(p, e) {
		case rare:
			s.Rare++
		case hit:
			s.Hits++
		case wait:
			s.Waits++
		}
	}
	return s
}

// SVG writes a picture of p, the same for the same profile: chunks by their place in
// the block map over the time at which they were read, and below that how long
// readers waited for what they began to read then.
func SVG(w io.Writer, p *profile.Profile) error {
	d := newDrawing(p)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	d.heading(&b, p)
	d.chunks(&b)
	d.waits(&b)
	b.WriteString("</svg>\n")
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("plot profile: %w", err)
	}
	return nil
}

// drawing is a profile on the grid.
type drawing struct {
	sum    Summary
	length time.Duration // of the time axis, not 0
	span   uint64        // chunks of the other
	cells  [rows][columns]class
	waited [columns]time.Duration
}

func newDrawing(p *profile.Profile) *drawing {
	d := &drawing{sum: Summarize(p), length: max(p.Length, 1), span: 1}
	for i := range p.Entries {
		e := &p.Entries[i]
		d.length, d.span = max(d.length, e.At+1), max(d.span, uint64(e.Chunk)+1)
	}
	for i := range p.Entries {
		e := &p.Entries[i]
		column := min(int(float64(e.At)/float64(d.length)*columns), columns-1)
		row := min(int(uint64(e.Chunk)*rows/d.span), rows-1)
		at := &d.cells[row][max(column, 0)]
		*at = max(*at, classOf(p, e))
		d.waited[max(column, 0)] += e.Waited
	}
	return d
}

// element writes an element that has nothing but text, which may be anything.
func element(b *bytes.Buffer, name, attributes, text string) {
	fmt.Fprintf(b, "<%s%s>", name, attributes)
	_ = xml.EscapeText(b, []byte(text)) // a buffer takes all
	fmt.Fprintf(b, "</%s>\n", name)
}

func text(b *bytes.Buffer, x, y int, anchor, format string, args ...any) {
	element(b, "text", fmt.Sprintf(` x="%d" y="%d" text-anchor="%s"`, x, y, anchor), fmt.Sprintf(format, args...))
}

func (d *drawing) heading(b *bytes.Buffer, p *profile.Profile) {
	name := p.Workload
	if name == "" {
		name = "the image's own command"
	}
	title := fmt.Sprintf("%s: %d frames, %d starts", name, len(p.Entries), p.Starts)
	if p.Predicted {
		title = fmt.Sprintf("%s: %d frames, predicted", name, len(p.Entries))
	}
	element(b, "title", "", title)
	text(b, left, 24, "start", "%s", title)
	x := left
	for _, l := range []struct {
		class
		count int
	}{{hit, d.sum.Hits}, {wait, d.sum.Waits}, {rare, d.sum.Rare}} {
		fmt.Fprintf(b, `<rect x="%d" y="38" width="10" height="10" fill="%s"/>`+"\n", x, classes[l.class].color)
		label := fmt.Sprintf("%d %s", l.count, classes[l.class].text)
		text(b, x+16, 48, "start", "%s", label)
		x += 40 + 6*len(label)
	}
}

// chunks draws the map. The first chunk is at the top, as on the disk.
func (d *drawing) chunks(b *bytes.Buffer) {
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#808080"/>`+"\n", left, mapTop, columns*cell, rows*cell)
	for c := rare; c <= wait; c++ {
		fmt.Fprintf(b, `<path fill="%s" d="`, classes[c].color)
		for row := range rows {
			for column := 0; column < columns; column++ {
				from := column
				for column < columns && d.cells[row][column] == c {
					column++
				}
				if n := (column - from) * cell; n > 0 {
					fmt.Fprintf(b, "M%d %dh%dv%dh-%dz", left+from*cell, mapTop+row*cell, n, cell, n)
				}
			}
		}
		b.WriteString("\"/>\n")
	}
	for i := range ticks + 1 {
		text(b, left-6, mapTop+i*rows*cell/ticks+4, "end", "%d", d.span*uint64(i)/ticks)
	}
	text(b, left-6, mapTop-12, "end", "chunk")
	d.times(b, mapTop+rows*cell)
}

// times writes the time axis below y.
func (d *drawing) times(b *bytes.Buffer, y int) {
	for i := range ticks + 1 {
		text(b, left+i*columns*cell/ticks, y+16, "middle", "%.3g s", d.length.Seconds()*float64(i)/ticks)
	}
}

// waits draws how long was waited for what was read in each column's time.
func (d *drawing) waits(b *bytes.Buffer) {
	most := time.Duration(1)
	for _, w := range d.waited {
		most = max(most, w)
	}
	text(b, left, waitTop-10, "start", "waited: %.3g s in all, up to %.3g s for what was first read within %.3g s",
		d.sum.Waited.Seconds(), most.Seconds(), (d.length / columns).Seconds())
	fmt.Fprintf(b, `<path fill="%s" d="`, classes[wait].color)
	for column, w := range d.waited {
		if h := int(float64(w) / float64(most) * waitHeight); h > 0 {
			fmt.Fprintf(b, "M%d %dh%dv-%dh-%dz", left+column*cell, waitTop+waitHeight, cell, h, cell)
		}
	}
	b.WriteString("\"/>\n")
	fmt.Fprintf(b, `<path stroke="#808080" d="M%d %dh%d"/>`+"\n", left, waitTop+waitHeight, columns*cell)
	d.times(b, waitTop+waitHeight)
}
