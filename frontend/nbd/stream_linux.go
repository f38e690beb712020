package nbd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// newStream takes nc over. limit bounds a write.
func newStream(nc net.Conn, limit time.Duration, signal *handOffSignal) (stream, error) {
	switch sc := nc.(type) {
	case *net.UnixConn:
		return newSocket(sc, nc, limit, signal)
	case *net.TCPConn:
		return newSocket(sc, nc, limit, signal)
	}
	return &connStream{nc: nc, limit: limit}, nil
}

// A handOffSignal wakes the readers of all connections: the read end of a pipe
// that can be read once the other end is closed.
type handOffSignal struct {
	fd  int // polled by readers, none of whom may be left at close
	end *os.File
}

func newHandOffSignal() (*handOffSignal, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe", err)
	}
	return &handOffSignal{fd: fds[0], end: os.NewFile(uintptr(fds[1]), "hand off")}, nil
}

// raise may be called again.
func (h *handOffSignal) raise() { _ = h.end.Close() }

func (h *handOffSignal) close() {
	h.raise()
	_ = unix.Close(h.fd)
}

// silence is how long a reader waits in a read, where a hand-over does not reach
// it, before it waits in a poll. So a client that asks more often costs no poll, an
// idle one nothing, and a hand-over takes at most so much longer.
const silence = 10 * time.Millisecond

// A socket is a stream on a descriptor in blocking mode, which the runtime's
// poller does not know. Waiting for a request then is one system call that
// returns with it, where the poller needs three and another thread: measured,
// half the processor time of a 4 KiB read. The price is a thread for each
// connection.
type socket struct {
	fd     int
	limit  time.Duration
	signal *handOffSignal
}

var _ stream = (*socket)(nil)

// newSocket makes the socket of nc, which it closes if it succeeds.
func newSocket(sc syscall.Conn, nc net.Conn, limit time.Duration, signal *handOffSignal) (*socket, error) {
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	fd, dupErr := -1, error(nil)
	err = raw.Control(func(orig uintptr) {
		fd, dupErr = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	send, receive := unix.NsecToTimeval(int64(limit)), unix.NsecToTimeval(int64(silence))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &send),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &receive),
		unix.SetNonblock(fd, false))
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	_ = nc.Close()
	return &socket{fd, limit, signal}, nil
}

func (s *socket) read(p []byte, between bool) (int, error) {
	for {
		n, err := unix.Read(s.fd, p)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN: // silence
			if err := s.await(between, -1); err != nil {
				return 0, err
			}
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (s *socket) readFull(p []byte) error {
	var end time.Time
	for {
		n, err := unix.Read(s.fd, p)
		silent := err == unix.EAGAIN
		switch {
		case silent || err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			if p = p[n:]; len(p) == 0 {
				return nil
			}
		}
		now := time.Now()
		if end.IsZero() {
			end = now.Add(2 * s.limit)
		}
		if !now.Before(end) {
			return os.ErrDeadlineExceeded
		}
		if silent {
			if err := s.await(false, min(s.limit, end.Sub(now))); err != nil {
				return err
			}
		}
	}
}

// await waits for something to read or, between requests, for the hand-over. It
// waits no longer than limit, which is os.ErrDeadlineExceeded; a negative limit is
// none. It may return too early.
func (s *socket) await(between bool, limit time.Duration) error {
	watch := [...]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.signal.fd), Events: unix.POLLIN}}
	if !between {
		watch[1].Fd = -1 // is passed over
	}
	ms := -1
	if limit >= 0 {
		ms = int(limit/time.Millisecond) + 1
	}
	switch n, err := unix.Poll(watch[:], ms); {
	case err != nil && err != unix.EINTR:
		return os.NewSyscallError("poll", err)
	case err == nil && n == 0:
		return os.ErrDeadlineExceeded
	}
	if watch[1].Revents != 0 {
		return errHandOff
	}
	return nil
}

func (s *socket) write(p []byte) error {
	var start time.Time
	for len(p) > 0 {
		n, err := unix.Write(s.fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return os.ErrDeadlineExceeded
		case err != nil:
			return os.NewSyscallError("write", err)
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
		if start.IsZero() {
			start = time.Now()
		} else if time.Since(start) > s.limit {
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

func (s *socket) stopReading()   { _ = unix.Shutdown(s.fd, unix.SHUT_RD) }
func (s *socket) abort()         { _ = unix.Shutdown(s.fd, unix.SHUT_RDWR) }
func (s *socket) close()         { _ = unix.Close(s.fd) }
func (s *socket) handable() bool { return true }
func (s *socket) detach() int    { return s.fd }
