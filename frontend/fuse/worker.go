package fuse

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A buffer is kept between requests, so that serving allocates nothing.
type buffer struct{ b []byte }

// Buffers by the largest reply they hold: most reads are of a page, of a
// readahead window, or as large as can be.
var (
	requestPool = newPool(requestSize)
	writePool   = newPool(requestSize + MaxWrite) // what the kernel wants to have room for, and more
	replyPools  = []*pool{
		newPool(outHeaderSize + 16<<10),
		newPool(outHeaderSize + 128<<10),
		newPool(outHeaderSize + MaxRead),
	}
)

type pool struct {
	size int
	sync.Pool
}

func newPool(size int) *pool {
	return &pool{size: size, Pool: sync.Pool{New: func() any { return &buffer{make([]byte, size)} }}}
}

// requestPools returns the pool of buffers that hold every request of a session.
func requestPools(writable bool) *pool {
	if writable {
		return writePool
	}
	return requestPool
}

// replyPool returns the pool of the smallest buffers of at least n bytes.
func replyPool(n int) *pool {
	for _, p := range replyPools {
		if n <= p.size {
			return p
		}
	}
	return replyPools[len(replyPools)-1]
}

// work serves requests until the session ends or enough others wait.
func (s *Session) work() {
	req := s.requests.Get().(*buffer)
	defer s.requests.Put(req)
	for {
		n, err := s.read(req.b)
		if err != nil {
			if again(err) {
				continue
			}
			s.leave(err)
			return
		}
		s.busy()
		s.answer(req.b[:n])
		if !s.rest() {
			return
		}
	}
}

// errReleased ends a worker because of Release.
var errReleased = errors.New("released")

// read takes the next request. After a Release it returns errReleased to every
// worker that comes in, and to the one that waits.
func (s *Session) read(b []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	for !s.releasing.Load() {
		n, err := unix.Read(s.fd, b)
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		watch := [...]unix.PollFd{
			{Fd: int32(s.fd), Events: unix.POLLIN},
			{Fd: int32(s.stoppedFD), Events: unix.POLLIN},
		}
		if _, err := unix.Poll(watch[:], -1); err != nil {
			return 0, err
		}
	}
	return 0, errReleased
}

// again tells errors of one read from the session's end: a request was
// withdrawn before we had it (ENOENT), or the read was interrupted.
func again(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINTR)
}

// answer serves one request.
func (s *Session) answer(req []byte) {
	size := replySize(req)
	p := replyPool(size)
	reply := p.Get().(*buffer)
	defer p.Put(reply)
	n := s.dispatch.handle(req, reply.b)
	if n == 0 {
		return
	}
	// An error means that nobody waits for this reply any more: the request
	// was interrupted, answered by the process before us, or the mount is
	// gone, which the next read tells.
	_, _ = unix.Write(s.fd, reply.b[:n])
}

// busy moves this worker from reading to serving, and starts another if none
// is left to read.
func (s *Session) busy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle--
	if s.idle == 0 && s.total < s.max {
		s.idle++
		s.total++
		go s.work()
	}
}

// rest moves this worker back to reading, or says false if it should end
// because enough others read. Some are left, so it is not the last.
func (s *Session) rest() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle >= keepIdle {
		s.total--
		return false
	}
	s.idle++
	return true
}

// leave ends a reading worker at the session's end; the last closes the
// descriptor.
func (s *Session) leave(err error) {
	s.mu.Lock()
	s.idle--
	s.total--
	last := s.total == 0
	// ENODEV: unmounted, or ended through fusectl.
	if !errors.Is(err, syscall.ENODEV) && !errors.Is(err, errReleased) && s.failure == nil {
		s.failure = fmt.Errorf("read a request of %s: %w", s.state.Dir, err)
	}
	s.mu.Unlock()
	if last {
		s.closeFiles()
		close(s.done)
	}
}
