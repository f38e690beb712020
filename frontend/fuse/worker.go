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
	return &pool{size: size, Pool: sync.Pool{New: func() any {
		b := make([]byte, size)
		// All pages are there before the kernel writes to them: where it must wait for one and
		// the process is killed, it fails the request, which the next process could have served.
		for i := 0; i < size; i += pageSize {
			b[i] = 0
		}
		return &buffer{b}
	}}}
}

const pageSize = 4 << 10

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

// lead takes requests and serves them, until another worker has the lead or the session ends.
func (s *Session) lead() {
	req := s.requests.Get().(*buffer)
	defer s.requests.Put(req)
	for {
		n, more, err := s.read(req.b)
		if err != nil {
			if again(err) {
				continue
			}
			s.end(err)
			return
		}
		if s.crew.HandOver(more || isSlow(req.b[:n])) {
			s.answer(req.b[:n])
			return
		}
		turn := s.crew.Begin()
		s.answer(req.b[:n])
		if !s.crew.End(turn) {
			return
		}
	}
}

// errReleased ends a session because of Release.
var errReleased = errors.New("released")

// read takes the next request, which the leader alone does. After a Release, or while it
// waits and there is one, it returns errReleased. It tells whether the request was there
// already: then there may be more, which are served side by side.
func (s *Session) read(b []byte) (n int, more bool, err error) {
	more = true
	for !s.releasing.Load() {
		n, err := unix.Read(s.fd, b)
		if !errors.Is(err, unix.EAGAIN) {
			return n, more, err
		}
		more = false
		watch := [...]unix.PollFd{
			{Fd: int32(s.fd), Events: unix.POLLIN},
			{Fd: int32(s.stoppedFD), Events: unix.POLLIN},
		}
		if _, err := unix.Poll(watch[:], -1); err != nil {
			return 0, false, err
		}
	}
	return 0, false, errReleased
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

// end says that there will be no more requests: workers end with what they serve.
func (s *Session) end(err error) {
	// ENODEV: unmounted, or ended through fusectl.
	if !errors.Is(err, syscall.ENODEV) && !errors.Is(err, errReleased) {
		s.failure = fmt.Errorf("read a request of %s: %w", s.state.Dir, err)
	}
	s.crew.Over()
}
