package nbd

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// newStream takes nc over. limit bounds a write.
func newStream(nc net.Conn, limit time.Duration) (stream, error) {
	switch sc := nc.(type) {
	case *net.UnixConn:
		return newSocket(sc, nc, limit)
	case *net.TCPConn:
		return newSocket(sc, nc, limit)
	}
	return &connStream{nc: nc, limit: limit}, nil
}

// A socket is a stream on a descriptor in blocking mode, which the runtime's
// poller does not know. Waiting for a request then is one system call that
// returns with it, where the poller needs three and another thread: measured,
// half the processor time of a 4 KiB read. The price is a thread for each
// connection.
type socket struct {
	fd    int
	limit time.Duration
}

var _ stream = (*socket)(nil)

// newSocket makes the socket of nc, which it closes if it succeeds.
func newSocket(sc syscall.Conn, nc net.Conn, limit time.Duration) (*socket, error) {
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
	tv := unix.NsecToTimeval(int64(limit))
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	_ = nc.Close()
	return &socket{fd, limit}, nil
}

func (s *socket) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
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

func (s *socket) stopReading() { _ = unix.Shutdown(s.fd, unix.SHUT_RD) }
func (s *socket) abort()       { _ = unix.Shutdown(s.fd, unix.SHUT_RDWR) }
func (s *socket) close()       { _ = unix.Close(s.fd) }
