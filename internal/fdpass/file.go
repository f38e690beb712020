package fdpass

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A File is a descriptor that is held, not used. Unlike an os.File it is never
// registered with the runtime's poller: that would wake this process for every
// event on a descriptor that another process works with.
type File struct {
	fd atomic.Int64 // -1 once closed
}

// NewFile returns a File of fd, which it owns from now on.
func NewFile(fd int) *File {
	f := &File{}
	f.fd.Store(int64(fd))
	return f
}

// Streams returns the two ends of a stream, of a socket pair. The caller closes both.
func Streams() (a, b *File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	return NewFile(fds[0]), NewFile(fds[1]), nil
}

// FD returns the descriptor, which stays f's: -1 once it is closed.
func (f *File) FD() int { return int(f.fd.Load()) }

// Take returns the descriptor, which is the caller's from now on.
func (f *File) Take() int { return int(f.fd.Swap(-1)) }

// Close closes the descriptor. Closing again does nothing.
func (f *File) Close() error {
	if fd := f.Take(); fd >= 0 {
		return unix.Close(fd)
	}
	return nil
}

// Duplicate returns a second File, whose descriptor is another of the same
// open file.
func (f *File) Duplicate() (*File, error) { return Duplicate(f.FD()) }

// Duplicate returns a File of another descriptor of the open file that fd is
// one of. The caller keeps fd open meanwhile.
func Duplicate(fd int) (*File, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return NewFile(dup), nil
}

// Of returns a File of another descriptor of what c is: a listener or a
// connection of package net, or an os.File.
func Of(c syscall.Conn) (*File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	var f *File
	var dupErr error
	err = raw.Control(func(fd uintptr) { f, dupErr = Duplicate(int(fd)) })
	if err == nil {
		err = dupErr
	}
	return f, err
}

// Listener returns a listener on the socket, with a descriptor of its own.
func (f *File) Listener() (net.Listener, error) {
	dup, err := f.Duplicate()
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(dup.Take()), "socket")
	defer func() { _ = file.Close() }()
	return net.FileListener(file)
}

// CloseAll closes files.
func CloseAll(files []*File) {
	for _, f := range files {
		_ = f.Close()
	}
}
