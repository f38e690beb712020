// Package fdpass sends small messages with descriptors between processes of one
// host, over unix sockets that keep message boundaries (SOCK_SEQPACKET).
//
// A message is one JSON value of at most MaxMessage bytes and at most MaxFiles
// descriptors. One that is cut short, in its bytes or its descriptors, is an
// error, and no descriptor of it stays open. Linux alone has such sockets.
package fdpass

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bounds of a message.
const (
	MaxMessage = 64 << 10 // bytes
	MaxFiles   = 8
)

// A Conn carries messages. One goroutine may send while another receives.
type Conn struct{ *net.UnixConn }

// Pair returns a connection, and the file of its other end to give to a child.
// The caller closes both.
func Pair() (*Conn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "other end")
	mine, err := FromFile(os.NewFile(uintptr(fds[0]), "this end"))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return mine, theirs, nil
}

// FromFile makes a connection of a socket's file, which it closes.
func FromFile(f *os.File) (*Conn, error) {
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("socket of messages: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("socket of messages: not a unix socket")
	}
	return &Conn{u}, nil
}

// Send sends v and files, which stay the caller's.
func (c *Conn) Send(v any, files ...*File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	if len(b) > MaxMessage || len(files) > MaxFiles {
		return fmt.Errorf("send message of %d bytes with %d descriptors: at most %d and %d", len(b), len(files), MaxMessage, MaxFiles)
	}
	if _, _, err := c.WriteMsgUnix(b, Rights(files), nil); err != nil {
		return fmt.Errorf("send message: %w", err)
	}
	return nil
}

// Receive reads a message into v and returns its descriptors, the caller's to
// close. The end of the connection is io.EOF.
func (c *Conn) Receive(v any) ([]*File, error) {
	b := make([]byte, MaxMessage)
	oob := make([]byte, syscall.CmsgSpace(MaxFiles*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, fmt.Errorf("receive message: %w", err)
	}
	files, err := received(oob[:oobn])
	switch {
	case err != nil:
	case n == 0:
		err = io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("receive message: it was cut short")
	default:
		if err = json.Unmarshal(b[:n], v); err != nil {
			err = fmt.Errorf("receive message: %w", err)
		}
	}
	if err != nil {
		CloseAll(files)
		return nil, err
	}
	return files, nil
}

// received makes files of the descriptors in control messages.
func received(oob []byte) ([]*File, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive message: control data: %w", err)
	}
	var files []*File
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue // some other kind, which brings no descriptors
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, NewFile(fd))
		}
	}
	return files, nil
}

// Rights returns the control message that sends files (SCM_RIGHTS, unix(7)):
// nil for none.
func Rights(files []*File) []byte {
	if len(files) == 0 {
		return nil
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = f.FD()
	}
	return syscall.UnixRights(fds...)
}
