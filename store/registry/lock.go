package registry

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// locks lets one goroutine at a time change a tag. Equal names share a lock,
// and some different ones do.
type locks struct {
	seed  maphash.Seed
	slots [64]chan struct{}
	reads [64]justRead
}

// processLocks are those of the process: it may have opened a repository
// several times.
var processLocks = newLocks()

func newLocks() *locks {
	l := &locks{seed: maphash.MakeSeed()}
	for i := range l.slots {
		l.slots[i] = make(chan struct{}, 1)
	}
	return l
}

// lock waits for the lock of a name, and returns what gives it back.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	slot := l.slots[l.slot(name)]
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *locks) slot(name string) uint64 {
	return maphash.String(l.seed, name) % uint64(len(l.slots))
}

// read returns what was read last of the names that share a lock with this one.
func (l *locks) read(name string) *justRead { return &l.reads[l.slot(name)] }

// justNow is how long a reading is remembered: as long as it takes whoever has read a
// pointer to ask for its change in the same breath.
const justNow = 10 * time.Millisecond

// A justRead remembers what a pointer was read as a moment ago, unless this process has changed
// it since, so that a change that follows at once need not read it again. The zero value is ready.
type justRead struct {
	mu      sync.Mutex
	changes int // that have begun or ended
	name    string
	last    reading
}

// A reading is what a pointer was read as.
type reading struct {
	value []byte
	was   v1.Hash
	err   error // nil, or chunk.ErrNotFound
	at    time.Time
}

// begin is called before a pointer is read; its result is for add.
func (j *justRead) begin() (changes int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changes
}

// add remembers a reading that began when there were so many changes.
func (j *justRead) add(name string, changes int, r reading) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if changes == j.changes {
		j.name, j.last = name, r
	}
}

// take returns the reading of just now, once.
func (j *justRead) take(name string) (reading, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	ok := j.name == name && time.Since(j.last.at) <= justNow
	r := j.last
	j.name, j.last = "", reading{}
	return r, ok
}

// change is called before a pointer is changed, and again after.
func (j *justRead) change() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.changes++
	j.name, j.last = "", reading{}
}
