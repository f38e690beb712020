package vhostuser

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/frontend/internal/lead"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/virtqueue"
)

const (
	batchBytes = 64 << 10 // data of requests that are answered together
	batchCount = 8        // how many of them at most

	blindWait = time.Millisecond      // between looks at a ring whose front end does not kick
	idleWait  = 10 * time.Millisecond // after which a ring no longer keeps a thread
	firstPoll = 4 * time.Microsecond  // how long polling begins with
)

// A ring is a queue that is being served.
//
//	taking, poll window   the leader's
//	queue                 its own lock
//	call                  callMu
type ring struct {
	s     *session
	index int
	queue *virtqueue.Queue
	crew  *lead.Crew

	epoll    int      // kick, edge-triggered: never read, each kick wakes once; and stop
	idle     *os.File // the same, for the runtime's poller
	stopFD   int
	blind    bool // there is no kick
	stopping atomic.Bool
	ended    chan struct{} // closes when no worker is left

	failed *event // nil: none. The session's, and not changed while the ring runs
	callMu sync.Mutex
	call   *event // nil: nobody is to be woken. The session's

	window time.Duration // how long to poll now
}

// startRing serves queue until stop. kick is nil if there is none.
func startRing(s *session, index int, queue *virtqueue.Queue, kick, call, failed *event) (*ring, error) {
	r := &ring{s: s, index: index, queue: queue, blind: kick == nil, call: call, failed: failed, ended: make(chan struct{})}
	if err := r.open(kick); err != nil {
		return nil, fmt.Errorf("start ring %d: %w", index, err)
	}
	r.crew = lead.New(s.srv.maxRequests(), r.enter)
	go func() {
		defer close(r.ended)
		r.crew.Run()
	}()
	return r, nil
}

func (r *ring) open(kick *event) (err error) {
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create", err)
	}
	err = unix.SetNonblock(r.epoll, true) // which tells os to use the poller
	r.idle = os.NewFile(uintptr(r.epoll), "ring")
	if err == nil {
		r.stopFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err != nil {
		_ = r.idle.Close()
		return os.NewSyscallError("eventfd", err)
	}
	err = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, r.stopFD, &unix.EpollEvent{Events: unix.EPOLLIN})
	if err == nil && kick != nil {
		err = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, kick.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET})
	}
	if err != nil {
		r.close()
		return os.NewSyscallError("epoll_ctl", err)
	}
	return nil
}

func (r *ring) close() {
	_ = r.idle.Close()
	_ = unix.Close(r.stopFD)
}

// stop takes no more requests and returns when those that were taken are answered.
// It returns the index at which the next one goes on.
func (r *ring) stop() (next uint16) {
	r.halt()
	<-r.ended
	r.close()
	return r.queue.NextIndex()
}

// halt begins to stop.
func (r *ring) halt() {
	r.stopping.Store(true)
	(&event{r.stopFD}).signal()
}

// setCall changes whom to wake, and wakes it, since it may have missed something.
func (r *ring) setCall(call *event) {
	r.callMu.Lock()
	defer r.callMu.Unlock()
	r.call = call
	call.signal()
}

// flush shows the front end what is answered.
func (r *ring) flush() {
	if r.queue.Publish() {
		r.s.srv.stats.signals.Add(1)
		r.callMu.Lock()
		defer r.callMu.Unlock()
		r.call.signal()
	}
}

// A worker is a goroutine that serves requests of one ring.
type worker struct {
	r       *ring
	chain   virtqueue.Chain
	request request
}

// enter begins a worker's life (lead.New).
func (r *ring) enter() func() {
	debug.SetPanicOnFault(true)
	w := &worker{r: r}
	return w.lead
}

// lead takes and serves requests until the lead has gone to someone else or the
// ring has stopped.
func (w *worker) lead() {
	defer w.recover()
	r, d := w.r, w.r.s.disk
	r.flush() // the last leader may have been too slow to
	for held := int64(0); ; {
		if !w.next() {
			r.flush()
			r.crew.Over()
			return
		}
		if err := w.request.parse(&w.chain); err != nil {
			r.flush()
			r.broke(err)
			return
		}
		if r.crew.HandOver(w.request.slow()) {
			if d.serve(&w.request, r.s.guest.direct) {
				r.queue.Complete(w.chain.Head, w.request.written)
			}
			r.flush()
			return
		}
		turn := r.crew.Begin()
		held += w.request.bytes()
		waiting := 0
		if d.serve(&w.request, r.s.guest.direct) {
			waiting = r.queue.Complete(w.chain.Head, w.request.written)
		}
		if !r.crew.End(turn) {
			r.flush()
			return
		}
		if waiting >= batchCount || held >= batchBytes {
			r.flush()
			held = 0
		}
	}
}

// next takes the next chain, and waits for it. It returns false when the ring has
// stopped, or is broken.
func (w *worker) next() bool {
	r := w.r
	for !r.stopping.Load() {
		ok, err := r.queue.Next(&w.chain)
		if err != nil {
			r.broke(err)
			return false
		}
		if ok {
			return true
		}
		r.flush()
		r.wait()
	}
	return false
}

// wait returns when there may be more to take.
func (r *ring) wait() {
	var start time.Time
	if limit := r.s.srv.Poll; limit > 0 {
		start = time.Now()
		if r.poll(start) {
			return
		}
	}
	if r.queue.Arm() {
		r.queue.Quiet()
		return
	}
	r.sleep()
	r.s.srv.stats.kicks.Add(1)
	r.queue.Quiet()
	if limit := r.s.srv.Poll; limit > 0 {
		// Polling pays if what was waited for came soon, and else less and less of
		// it is done.
		if time.Since(start) <= limit {
			r.window = min(max(2*r.window, firstPoll), limit)
		} else {
			r.window /= 2
		}
	}
}

// sleep returns when the ring is kicked or stopped, or for no reason. In a system
// call of its own it is woken soonest; a ring that is idle for long keeps no thread in
// one, since there may be many and a process has a bound of threads.
func (r *ring) sleep() {
	var events [2]unix.EpollEvent
	if r.blind {
		_, _ = unix.EpollWait(r.epoll, events[:], int(blindWait/time.Millisecond))
		return
	}
	if n, err := unix.EpollWait(r.epoll, events[:], int(idleWait/time.Millisecond)); n > 0 || err != nil {
		return
	}
	raw, err := r.idle.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil
		})
	}
	if err != nil { // not in the poller, after all
		_, _ = unix.EpollWait(r.epoll, events[:], -1)
	}
}

// poll looks at the ring for a while, and reports whether there is something.
func (r *ring) poll(start time.Time) bool {
	for r.window >= firstPoll && !r.stopping.Load() {
		for range 64 {
			if r.queue.Waiting() {
				return true
			}
		}
		if time.Since(start) >= r.window {
			break
		}
	}
	return false
}

// broke stops a ring that breaks the rules, and tells the front end.
func (r *ring) broke(err error) {
	r.s.srv.stats.broken.Add(1)
	r.s.srv.log.Warn("vhost-user: ring is stopped", "ring", r.index, "err", err)
	r.failed.signal()
	r.stopping.Store(true)
	r.crew.Over()
}

var errFault = errors.New("shared memory was taken away")

// recover ends the connection after a fault.
func (w *worker) recover() {
	v := recover()
	if v == nil {
		return
	}
	if !w.r.s.isFault(v) {
		panic(v)
	}
	w.r.stopping.Store(true)
	w.r.crew.Over()
	w.r.s.fault()
}
