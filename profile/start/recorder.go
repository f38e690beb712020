package start

import (
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

// Defaults of RecordOptions.
const (
	DefaultQuiet = 5 * time.Second
	DefaultLimit = 2 * time.Minute
	DefaultLeast = 32
)

// maxTouches bounds a recording, in frames: what a profile keeps.
const maxTouches = profile.MaxEntries

// RecordOptions say when a start is over. The zero value is usable.
type RecordOptions struct {
	Quiet time.Duration // since a frame was read that had not been read before; 0: DefaultQuiet
	Limit time.Duration // since the start has begun in earnest; 0: DefaultLimit
	// Least is how many frames have to be read for the start to have begun in earnest.
	// Before that it is neither quiet nor too long: what mounts a disk reads some, and
	// may run nothing from it for a while. 0: DefaultLeast.
	Least int
}

// A Recorder records one start: from the first read of a frame until none has been
// read for a while. Its methods may be called by any number of goroutines. It has no
// goroutine, and its timer ends with it: whoever makes one calls Stop.
type Recorder struct {
	opt  RecordOptions
	over chan struct{}

	mu    sync.Mutex // guards what follows
	r     profile.Recording
	begun time.Time   // the first touch; zero before
	last  time.Time   // the last one
	count int         // of touches that were kept
	end   time.Time   // by Limit
	timer *time.Timer // looks whether it is over; nil until it has begun in earnest
	ended bool
}

// NewRecorder returns a Recorder of a start of the image with that block map.
func NewRecorder(image origin.Digest, workload string, opt RecordOptions) *Recorder {
	if opt.Quiet == 0 {
		opt.Quiet = DefaultQuiet
	}
	if opt.Limit == 0 {
		opt.Limit = DefaultLimit
	}
	if opt.Least == 0 {
		opt.Least = DefaultLeast
	}
	return &Recorder{opt: opt, over: make(chan struct{}), r: profile.Recording{Image: image, Workload: workload}}
}

// Touch is told of first reads; see disk.Disk.OnTouch.
func (r *Recorder) Touch(t disk.Touch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	if r.begun.IsZero() {
		r.begun = t.Begun
	}
	if len(r.r.Touches) < maxTouches {
		r.r.Touches = append(r.r.Touches, profile.Touch{
			Frame: profile.Frame{Chunk: uint32(t.Chunk), Number: uint16(t.Frame)},
			At:    max(0, t.Begun.Sub(r.begun)), Waited: t.Waited,
		})
	}
	r.last, r.count = time.Now(), len(r.r.Touches)
	if r.timer == nil && r.count >= r.opt.Least {
		r.end = r.last.Add(r.opt.Limit)
		r.timer = time.AfterFunc(min(r.opt.Quiet, r.opt.Limit), r.look)
	}
}

// look ends the recording if the start is over, or else looks again.
func (r *Recorder) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	until := r.last.Add(r.opt.Quiet)
	if r.end.Before(until) {
		until = r.end
	}
	if rest := time.Until(until); rest > 0 {
		r.timer.Reset(rest)
		return
	}
	r.finish()
}

// finish ends the recording. The caller holds mu.
func (r *Recorder) finish() {
	if r.ended {
		return
	}
	r.ended = true
	if r.timer != nil {
		r.timer.Stop()
	}
	if !r.begun.IsZero() {
		r.r.Length = r.last.Sub(r.begun)
	}
	close(r.over)
}

// Stop ends the recording, if it has not ended: somebody knows that the start is over.
func (r *Recorder) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finish()
}

// Over is closed when the start is over.
func (r *Recorder) Over() <-chan struct{} { return r.over }

// Frames returns how many frames were recorded so far.
func (r *Recorder) Frames() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// Recording returns what was recorded of a start that is over, once: the recorder keeps
// nothing of it. ok is false while it is not over, and of what was not read from.
func (r *Recorder) Recording() (rec profile.Recording, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended || len(r.r.Touches) == 0 {
		return profile.Recording{}, false
	}
	rec, r.r.Touches = r.r, nil
	return rec, true
}
