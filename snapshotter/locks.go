//go:build linux

package snapshotter

import (
	"context"
	"sync"
)

// locks is a lock for each of any number of names. The zero value is ready to use.
type locks struct {
	mu   sync.Mutex // guards held
	held map[string]*namedLock
}

// A namedLock is there while somebody has it or waits for it.
type namedLock struct {
	turn  chan struct{} // holds one while nobody has the lock
	users int           // under locks.mu
}

// lock takes the lock of a name and returns what gives it back. The error is that
// of ctx.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	n := l.held[name]
	if n == nil {
		n = &namedLock{turn: make(chan struct{}, 1)}
		n.turn <- struct{}{}
		if l.held == nil {
			l.held = make(map[string]*namedLock)
		}
		l.held[name] = n
	}
	n.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.users--; n.users == 0 {
			delete(l.held, name)
		}
	}
	select {
	case <-n.turn:
		return func() { n.turn <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
