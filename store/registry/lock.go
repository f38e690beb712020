package registry

import (
	"context"
	"hash/maphash"
)

// locks lets one goroutine at a time change a tag. Equal names share a lock,
// and some different ones do.
type locks struct {
	seed  maphash.Seed
	slots [64]chan struct{}
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
	slot := l.slots[maphash.String(l.seed, name)%uint64(len(l.slots))]
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
