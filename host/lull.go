package host

import (
	"sync"
	"time"
)

// quietTime is how long nothing is attached or detached before Config.Quiet is called:
// long enough for clients to have found a disk, and read how large it is and what is on it.
const quietTime = 3 * time.Second

// A lull calls a function each time that nothing has stirred for a while.
type lull struct {
	fn    func() // nil: never
	after time.Duration

	running sync.WaitGroup
	mu      sync.Mutex  // guards what follows
	timer   *time.Timer // nil before the first stir
	ended   bool
}

// stir says that something happens.
func (l *lull) stir() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.fn == nil || l.ended:
	case l.timer == nil:
		l.timer = time.AfterFunc(l.after, l.call)
	default:
		l.timer.Reset(l.after)
	}
}

func (l *lull) call() {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.running.Add(1)
	l.mu.Unlock()
	defer l.running.Done()
	l.fn()
}

// end has no further call begin, and waits for one that runs.
func (l *lull) end() {
	l.mu.Lock()
	l.ended = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	l.running.Wait()
}
