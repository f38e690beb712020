// Package loglimit keeps what others can cause from filling a log. A guest that
// reads one bad sector in a loop, or a stranger who connects and talks nonsense,
// makes thousands of equal lines a second; the first few say it all.
package loglimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// PerSecond is how many records of one message pass in a second.
const PerSecond = 10

// maxMessages bounds the messages that are told apart. Messages are meant to
// be constants of the program; further ones share one limit.
const maxMessages = 256

// A handler passes on at most PerSecond records of each message in a second.
type handler struct {
	slog.Handler
	limits *limits
}

// limits is shared by a handler and those made of it.
type limits struct {
	mu       sync.Mutex
	messages map[string]*window
}

// A window counts the records of one message since a second began.
type window struct {
	begun   time.Time
	passed  int
	skipped int // since a record passed
}

// New returns a logger that hands records on to l, of each message at most
// PerSecond in a second. The next record that passes tells by its attribute
// "skipped" how many before it did not.
func New(l *slog.Logger) *slog.Logger {
	return slog.New(&handler{l.Handler(), &limits{messages: map[string]*window{}}})
}

// Handle implements [slog.Handler].
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	skipped, ok := h.limits.take(r.Message, time.Now())
	if !ok {
		return nil
	}
	if skipped > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("skipped", skipped))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.limits}
}

// WithGroup implements [slog.Handler].
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.limits}
}

// take reports whether a record may pass now, and how many did not before it.
func (l *limits) take(message string, now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.messages[message]
	if w == nil && len(l.messages) >= maxMessages {
		message = ""
		w = l.messages[message]
	}
	if w == nil {
		w = &window{begun: now}
		l.messages[message] = w
	}
	if now.Sub(w.begun) >= time.Second {
		w.begun, w.passed = now, 0
	}
	if w.passed == PerSecond {
		w.skipped++
		return 0, false
	}
	w.passed++
	skipped, w.skipped = w.skipped, 0
	return skipped, true
}
