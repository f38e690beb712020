package loopmount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// AwaitUnmount returns nil when the file system is no longer mounted, whoever
// unmounted it, or ctx's error. While it is bound to another place too, or the
// mount point's path was changed by renaming, it is mounted.
func (m *Mounted) AwaitUnmount(ctx context.Context) error {
	number, isLoop := loopNumber(m.Device)
	w, err := watched.join(m.Device)
	if err != nil {
		return fmt.Errorf("watch the mount at %s: %w", m.Dir, err)
	}
	defer watched.leave(w)
	for {
		select {
		case <-w.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		there, err := watched.mounted(w)
		if there && err == nil && isLoop {
			var file string
			file, err = backingFile(number)
			there = file == m.File
		}
		there = there && (m.Same == nil || m.Same())
		if err != nil {
			return fmt.Errorf("watch the mount at %s: %w", m.Dir, err)
		}
		if !there {
			return nil
		}
	}
}

// watched is the table of mounts that this process sees, watched for all who wait:
// by one goroutine, which reads it once for each change (proc(5)), while anybody
// waits.
var watched watch

type watch struct {
	mu      sync.Mutex // guards what follows, and the waiters
	waiters map[*waiter]struct{}
	watcher *watcher // nil: nobody waits
}

// A waiter waits for changes of a device's lines in the table.
type waiter struct {
	device  string
	lines   []byte // as they were when it was last told
	changed chan struct{}
	err     error // of the watcher, which has ended
}

// A watcher is the goroutine, and what it needs.
type watcher struct {
	table *os.File
	wake  int // eventfd: somebody has come, or all have gone
	ended chan struct{}
}

// join returns a waiter that is told of a device's lines at once, and whenever they
// change.
func (t *watch) join(device string) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watcher == nil {
		// Not by os.Open: the runtime's poller would look at the table too, and a change
		// is told to one of those who poll a file, once.
		fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("open /proc/self/mountinfo", err)
		}
		table := os.NewFile(uintptr(fd), "/proc/self/mountinfo")
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return nil, errors.Join(err, table.Close())
		}
		t.waiters = make(map[*waiter]struct{})
		t.watcher = &watcher{table, wake, make(chan struct{})}
		go t.run(t.watcher)
	}
	w := &waiter{device: device, lines: []byte("not told yet"), changed: make(chan struct{}, 1)}
	t.waiters[w] = struct{}{}
	t.watcher.poke()
	return w, nil
}

// leave ends a wait, and with the last one the watcher.
func (t *watch) leave(w *waiter) {
	t.mu.Lock()
	delete(t.waiters, w)
	last := t.watcher
	if len(t.waiters) > 0 || w.err != nil {
		t.mu.Unlock()
		return
	}
	t.watcher = nil
	last.poke()
	t.mu.Unlock()
	<-last.ended
}

// mounted reports whether the device of w had lines when w was last told.
func (t *watch) mounted(w *waiter) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(w.lines) > 0, w.err
}

func (w *watcher) poke() { _, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// run tells waiters until another watcher, or none, is the one.
func (t *watch) run(w *watcher) {
	defer close(w.ended)
	defer func() { _, _ = w.table.Close(), unix.Close(w.wake) }()
	// The table is changed for a reader that has not read it since.
	fds := []unix.PollFd{{Fd: int32(w.table.Fd()), Events: unix.POLLPRI}, {Fd: int32(w.wake), Events: unix.POLLIN}}
	var table bytes.Buffer
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil {
			_, _ = unix.Read(w.wake, make([]byte, 8)) // before the table: who comes later pokes again
			table.Reset()
			if _, err = w.table.Seek(0, io.SeekStart); err == nil {
				_, err = table.ReadFrom(w.table)
			}
		}
		if !t.tell(w, table.Bytes(), err) {
			return
		}
	}
}

// tell tells all whose lines in the table have changed, or of an error. It reports
// whether w is to go on.
func (t *watch) tell(w *watcher, table []byte, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watcher != w {
		return false
	}
	now := make(map[string][]byte, len(t.waiters))
	for line := range bytes.Lines(table) {
		if _, after, ok := bytes.Cut(line, []byte(" - ")); ok {
			if f := bytes.Fields(after); len(f) > 1 && bytes.HasPrefix(f[1], []byte("/dev/")) {
				device := string(f[1])
				now[device] = append(now[device], line...)
			}
		}
	}
	for one := range t.waiters {
		lines := now[one.device]
		if err == nil && bytes.Equal(lines, one.lines) {
			continue
		}
		one.lines, one.err = lines, err
		select {
		case one.changed <- struct{}{}:
		default:
		}
	}
	if err != nil {
		t.watcher = nil // who comes next tries anew
		t.waiters = nil
	}
	return err == nil
}
