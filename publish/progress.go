package publish

import (
	"errors"
	"fmt"
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
)

// A Stage is what happens to a layer.
type Stage string

// The stages of a layer; Known and Stored are ends.
const (
	Reading Stage = "reading" // bytes are compressed bytes read
	Storing Stage = "storing" // bytes are bytes of the disk
	Stored  Stage = "stored"
	Known   Stage = "known" // the origin has it, nothing to do
)

// metadata stands for the file system's metadata where a layer's index is
// expected.
const metadata = -1

// An Event tells how far a layer is, several for each stage; or has a Note, and nothing of a
// layer.
type Event struct {
	Layer  int   `json:"layer"` // index, or -1 for the file system's metadata
	Layers int   `json:"layers"`
	Stage  Stage `json:"stage"`
	Done   int64 `json:"done"`  // bytes
	Total  int64 `json:"total"` // bytes

	Note string `json:"note,omitempty"` // what somebody should know
}

// progress passes events on, one at a time.
type progress struct {
	mu     sync.Mutex
	tell   func(Event) // called with mu held
	layers int
	noted  bool // that something remembered was not read
}

func newProgress(tell func(Event), layers int) *progress {
	if tell == nil {
		tell = func(Event) {}
	}
	return &progress{tell: tell, layers: layers}
}

func (p *progress) event(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.Layers = p.layers
	p.tell(e)
}

// unread tells, once, that what is remembered cannot be read, though it is there, so that the
// work is done again. What is not there is no news.
func (p *progress) unread(what string, err error) {
	if err == nil || errors.Is(err, chunk.ErrNotFound) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.noted {
		p.noted = true
		p.tell(Event{Layer: metadata, Layers: p.layers, Note: fmt.Sprintf("%s cannot be read, and is done without: %v", what, err)})
	}
}

func (p *progress) known(layer int) { p.event(Event{Layer: layer, Stage: Known}) }

// reading tells how many compressed bytes of a layer were read so far.
func (p *progress) reading(layer int, done, total int64) {
	p.event(Event{Layer: layer, Stage: Reading, Done: done, Total: total})
}

// stored tells that a layer is done, which has so many bytes of the disk.
func (p *progress) stored(layer int, total int64) {
	p.event(Event{Layer: layer, Stage: Stored, Done: total, Total: total})
}

// storing returns what is to be called, by any goroutine, with the bytes of
// each chunk that was stored.
func (p *progress) storing(layer int, total int64) func(bytes int) {
	var mu sync.Mutex
	var done int64
	if total == 0 {
		p.stored(layer, 0)
	}
	return func(bytes int) {
		mu.Lock()
		defer mu.Unlock()
		done += int64(bytes)
		stage := Storing
		if done >= total {
			stage = Stored
		}
		p.event(Event{Layer: layer, Stage: stage, Done: done, Total: total})
	}
}
