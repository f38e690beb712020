package main

import (
	"fmt"
	"sync"
	"time"
)

// A statusLine is one line on the terminal that is drawn over, now and then.
type statusLine struct {
	mu   sync.Mutex // the user's, to hold over show
	app  *app
	last time.Time
}

func newStatusLine(a *app) *statusLine { return &statusLine{app: a} }

// clearLine takes the line away, so that what follows stands in its place.
func (a *app) clearLine() {
	if isTerminal(a.err) {
		fmt.Fprint(a.err, "\r\x1b[K")
	}
}

// show draws the line, unless it was drawn a moment ago.
func (l *statusLine) show(format string, args ...any) {
	if now := time.Now(); now.Sub(l.last) >= drawEvery {
		l.last = now
		fmt.Fprintf(l.app.err, "\r\x1b[K"+format+"\r", args...)
	}
}
