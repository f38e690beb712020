package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/publish"
)

// Times between two drawings of the bars, and between two plain lines.
const (
	drawEvery  = 100 * time.Millisecond
	plainEvery = 10 * time.Second
	barWidth   = 24
)

// A progress shows the events of a publication: as bars on a terminal, as lines
// elsewhere, or as JSON lines. Its methods are called by one goroutine at a time.
type progress struct {
	app      *app
	json     bool
	terminal bool
	started  time.Time
	drawn    time.Time
	lines    int // on the terminal now
	rows     map[int]*row
}

// A row is the state of one layer.
type row struct {
	publish.Event
	since time.Time // begin of the stage
	said  time.Time // last plain line
}

func (a *app) newProgress(asJSON bool) *progress {
	return &progress{app: a, json: asJSON, terminal: !asJSON && isTerminal(a.err), started: time.Now(), rows: map[int]*row{}}
}

func (p *progress) event(e publish.Event) {
	now := time.Now()
	if e.Note != "" {
		p.note(e)
		return
	}
	r := p.rows[e.Layer]
	fresh := r == nil || r.Stage != e.Stage
	if fresh {
		r = &row{since: now}
		p.rows[e.Layer] = r
	}
	r.Event = e
	switch {
	case p.json:
		if fresh || now.Sub(r.said) >= drawEvery {
			r.said = now
			p.encode("progress", e)
		}
	case p.terminal:
		if fresh || now.Sub(p.drawn) >= drawEvery {
			p.draw(now)
		}
	case fresh && (e.Stage != publish.Storing) || now.Sub(r.said) >= plainEvery:
		r.said = now
		p.app.note("%s", r.text(now))
	}
}

// note passes on what an event tells that is none of a layer.
func (p *progress) note(e publish.Event) {
	if p.json {
		p.encode("note", e)
		return
	}
	p.app.note("rivulet: %s", e.Note)
	p.lines = 0 // the bars go on below it
}

func (p *progress) encode(kind string, e publish.Event) {
	_ = json.NewEncoder(p.app.err).Encode(struct {
		Kind string `json:"event"`
		publish.Event
	}{kind, e})
}

// end draws the last state, so that the lines that follow stand below it.
func (p *progress) end() {
	if p.terminal {
		p.draw(time.Now())
	}
}

// draw puts the bars in place of those drawn before.
func (p *progress) draw(now time.Time) {
	var b strings.Builder
	if p.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.lines)
	}
	p.lines, p.drawn = 0, now
	for _, layer := range slices.Sorted(maps.Keys(p.rows)) {
		fmt.Fprintf(&b, "\r\x1b[K%s\n", p.rows[layer].text(now))
		p.lines++
	}
	fmt.Fprint(p.app.err, b.String())
}

// text is one line: what, bar, bytes, rate and time left.
func (r *row) text(now time.Time) string {
	what := fmt.Sprintf("layer %d/%d", r.Layer+1, r.Layers)
	if r.Layer < 0 {
		what = "file system"
	}
	if r.Total == 0 || r.Stage == publish.Known || r.Stage == publish.Stored {
		return fmt.Sprintf("%-12s %s", what, r.Stage)
	}
	done := min(r.Done, r.Total)
	fill := int(done * barWidth / r.Total)
	s := fmt.Sprintf("%-12s %s [%s%s] %s of %s", what, r.Stage, strings.Repeat("=", fill), strings.Repeat(" ", barWidth-fill), size(done), size(r.Total))
	if d := now.Sub(r.since); d > 0 && done > 0 {
		rate := float64(done) / d.Seconds()
		left := time.Duration(float64(r.Total-done) / rate * float64(time.Second)).Round(time.Second)
		s += fmt.Sprintf(", %s/s, %v left", size(int64(rate)), left)
	}
	return s
}
